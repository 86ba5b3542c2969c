{{/* Not in mode ray: Ray has metrics, rules and dashboards of its own. */}}
{{- define "vilam3.monitoring" -}}
{{- if eq .Values.serving.mode "ray" }}{{ else if or (eq .Values.monitoring.enabled "always") (and (eq .Values.monitoring.enabled "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}true{{ end -}}
{{- end }}

{{/* metadata with the labels by which a Prometheus chooses its objects. */}}
{{- define "vilam3.monitoring.metadata" -}}
name: {{ include "vilam3.name" . }}
namespace: {{ (first .).Release.Namespace }}
labels:
  {{- mergeOverwrite (include "vilam3.labels" . | fromYaml) (first .).Values.monitoring.labels | toYaml | nindent 2 }}
{{- end }}
