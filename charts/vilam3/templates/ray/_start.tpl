{{/* How the process of a Ray pod is started, and asked whether it is well. */}}

{{/*
The operator would add probes of its own, which call wget in the container; these ask the same addresses from outside. Who
serves is ready when the proxy on its node is, the head when it holds the cluster together.
*/}}
{{- define "vilam3.ray.probes" -}}
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  initialDelaySeconds: 30
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
readinessProbe:
  {{- if .isHead }}
  httpGet: {path: /api/gcs_healthz, port: 8265}
  {{- else if .serves }}
  httpGet: {path: /-/healthz, port: 8000}
  {{- else }}
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ ternary 1 10 (default false .serves) }}
{{- end }}

{{/* What `ray start` is told of every pod, which has its ports for itself: those that probes and monitors ask, and the next. */}}
{{- define "vilam3.ray.start" -}}
dashboard-agent-listen-port: "52365"
dashboard-agent-grpc-port: "52366"
runtime-env-agent-port: "52367"
metrics-export-port: "8080"
{{- with .Values.ray.objectStoreBytes }}
object-store-memory: {{ int64 . | quote }}
{{- end }}
{{- end }}

{{/* And of the head, which has no processors to give. */}}
{{- define "vilam3.ray.startHead" -}}
dashboard-host: 0.0.0.0
num-cpus: "0"
{{ include "vilam3.ray.start" . }}
{{- end }}
