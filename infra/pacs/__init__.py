"""A real PACS for tests and trials: Orthanc with DICOMweb, from the distribution's packages, on the loopback alone."""
