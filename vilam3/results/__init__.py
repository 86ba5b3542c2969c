"""What a finding becomes outside: DICOM SEG, measurements, a report. Knows no HTTP and no expert."""
