{{/* What Ray Serve runs; the program says how its deployments share accelerators. */}}
{{- define "vilam3.ray.serve" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
  - name: vilam3
    route_prefix: /
    import_path: serving.ray_app:app
    args:
      model: /mnt/models/vlm
      {{- if include "vilam3.experts" . }}
      experts: /mnt/models/experts
      {{- end }}
{{- end }}
