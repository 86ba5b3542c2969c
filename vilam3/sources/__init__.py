"""Images that are somewhere else: web servers, S3 buckets and a PACS that the operator has listed, and no others."""
