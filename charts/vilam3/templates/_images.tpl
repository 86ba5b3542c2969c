{{/* Images: one registry, one tag. */}}

{{- define "vilam3.image.ops" -}}
{{ .Values.image.registry }}/{{ .Values.image.ops }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "vilam3.image.compute" -}}
{{ .Values.image.registry }}/{{ .Values.image.compute }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "vilam3.image.postgresql" -}}
{{ .Values.mlflow.postgresql.image | default (printf "%s/vilam3-postgresql:%s" .Values.image.registry (.Values.image.tag | default .Chart.AppVersion)) }}
{{- end }}

{{- define "vilam3.image.secrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
