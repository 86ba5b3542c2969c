module vilam3.local/images/pause

go 1.26.0
