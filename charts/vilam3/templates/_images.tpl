{{/* Images: one registry, one tag. */}}

{{- define "vilam3.image.ops" -}}
{{ .Values.image.registry }}/{{ .Values.image.ops }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "vilam3.image.compute" -}}
{{ .Values.image.registry }}/{{ .Values.image.compute }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Of a predictor, by its model format: only the VLM may run on vLLM. */}}
{{- define "vilam3.image.predictor" -}}
{{- $root := first . -}}
{{- if and (eq (last .) "vila-m3") (eq $root.Values.vlm.engine "vllm") -}}
{{ $root.Values.image.registry }}/{{ $root.Values.image.vllm }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- else -}}
{{ include "vilam3.image.compute" $root }}
{{- end -}}
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
