{{/* The intake: a service that takes events, and a job that looks by itself. */}}

{{- define "vilam3.intake.enabled" -}}
{{- if and .Values.pipelines.enabled .Values.pipelines.intake.enabled }}true{{ end -}}
{{- end }}

{{/* Whether MLflow of this installation sends it webhooks. */}}
{{- define "vilam3.intake.told" -}}
{{- if and (include "vilam3.intake.enabled" .) .Values.mlflow.enabled .Values.pipelines.intake.webhookSecret }}true{{ end -}}
{{- end }}

{{/* What is asked for, where, and on which terms: the same for both. */}}
{{- define "vilam3.intake.arguments" -}}
{{- $intake := .Values.pipelines.intake }}{{ $retrain := .Values.pipelines.retrain -}}
- --records
- {{ $intake.records }}
- --endpoint
- {{ .Values.pipelines.endpoint }}
- --recipe
- pipelines/recipes/{{ .Values.pipelines.recipe }}.toml
- --base-checkpoint
- {{ $retrain.baseCheckpoint }}
- --experts
- {{ $retrain.experts }}
- --cool-down-s
- {{ $intake.coolDownSeconds | int | quote }}
- --most-at-once
- {{ $intake.mostAtOnce | int | quote }}
{{- with $retrain.corpus }}
- --corpus
- {{ . }}
{{- end }}
{{- with $intake.watch }}
- --watch
- {{ . }}
{{- end }}
{{- with $intake.page }}
- --page
- {{ . }}
{{- end }}
{{- if eq (include "vilam3.pipelines.delivery" .) "kubernetes" }}
- --version
- {{ include "vilam3.pipelines.version" (list . "retrain") }}
{{- end }}
{{- with .Values.training.pricePerGpuHour }}
- --price
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "vilam3.intake.env" -}}
{{- include "vilam3.env.base" . }}
{{- with include "vilam3.mlflow.uri" . }}
- name: MLFLOW_TRACKING_URI
  value: {{ . | quote }}
{{- end }}
{{ include "vilam3.env.s3" . }}
{{- end }}

{{- define "vilam3.intake.resources" -}}
requests: {cpu: 100m, memory: 1Gi}
limits: {cpu: "1", memory: 2Gi}
{{- end }}
