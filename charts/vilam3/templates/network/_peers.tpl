{{/* Peers and rules that several policies share. */}}

{{- define "vilam3.network.pods" -}}
podSelector:
  matchLabels:
    app.kubernetes.io/name: vilam3
    app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Parts: (list $ (list "vlm" "cxr")). */}}
{{- define "vilam3.network.parts" -}}
matchLabels:
  app.kubernetes.io/name: vilam3
  app.kubernetes.io/instance: {{ (first .).Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [{{ last . | join ", " }}]
{{- end }}

{{/* Parts that callers reach, those that read patient data, and those that need the object store. */}}
{{- define "vilam3.network.front" -}}
{{- if eq .Values.serving.mode "kserve" }}orchestrator graph{{ else if eq .Values.serving.mode "ray" }}ray{{ else }}endpoint{{ end -}}
{{- end }}

{{/* Parts that ask models; for a graph the VLM reads the cards of added experts. */}}
{{- define "vilam3.network.askers" -}}
{{- include "vilam3.network.front" . }}{{ if .Values.serving.graph }} vlm{{ end -}}
{{- end }}

{{- define "vilam3.network.serving" -}}
{{- if eq .Values.serving.mode "kserve" }}orchestrator vlm {{ include "vilam3.experts" . }}{{ else }}{{ include "vilam3.network.front" . }}{{ end -}}
{{- end }}

{{- define "vilam3.network.storage" -}}
{{- include "vilam3.network.serving" . }}{{ if .Values.mlflow.enabled }} mlflow{{ end }}{{ if or .Values.training.enabled .Values.training.job.enabled }} training{{ end }}{{ if include "vilam3.intake.enabled" . }} intake look{{ end -}}
{{- end }}

{{/* The port of a URL. */}}
{{- define "vilam3.network.port" -}}
{{- (urlParse .).host | splitList ":" | rest | first | default (ternary 443 80 (hasPrefix "https" .)) -}}
{{- end }}

{{/* metadata with what patient data the policy lets through: (list $ name sentence). */}}
{{- define "vilam3.network.metadata" -}}
{{- include "vilam3.metadata" (list (index . 0) (index . 1)) }}
annotations:
  vilam3/patient-data: {{ index . 2 | quote }}
{{- end }}
