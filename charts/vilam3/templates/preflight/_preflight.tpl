{{/* The check before anything is installed: `vilam3 doctor --cluster`, which reads and changes nothing. */}}

{{/* Hooks run in the order of their weight; what a check needs comes before it and goes after it has passed. */}}
{{- define "vilam3.preflight.annotations" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Operators this installation needs, by their names in infra/platform. */}}
{{- define "vilam3.preflight.needs" -}}
{{- $needs := list -}}
{{- if eq .Values.serving.mode "kserve" }}{{ $needs = append $needs "kserve" }}{{ end -}}
{{- if or (eq .Values.serving.mode "ray") .Values.training.enabled .Values.training.job.enabled (and .Values.pipelines.enabled (eq .Values.pipelines.launcher "rayjob")) }}{{ $needs = append $needs "kuberay" }}{{ end -}}
{{- if and .Values.pipelines.enabled (eq .Values.pipelines.launcher "trainjob") }}{{ $needs = append $needs "trainer" }}{{ end -}}
{{- if and (eq .Values.serving.mode "kserve") (eq (include "vilam3.scaler" .) "keda") }}{{ $needs = append $needs "keda" }}{{ end -}}
{{- if eq (include "vilam3.pipelines.delivery" .) "kubernetes" }}{{ $needs = append $needs "kfp" }}{{ end -}}
{{- if .Values.training.queue }}{{ $needs = append $needs "kueue" }}{{ end -}}
{{- $needs | join " " -}}
{{- end }}

{{/* Whether any enabled workload asks for an accelerator. */}}
{{- define "vilam3.preflight.accelerated" -}}
{{- $gpus := int .Values.vlm.gpus -}}
{{- range splitList " " (include "vilam3.experts" .) | compact }}{{ $gpus = add $gpus (index $.Values.experts .).gpus }}{{ end -}}
{{- if gt (int $gpus) 0 }}true{{ end -}}
{{- end }}

{{/* Secrets that are referred to, as name:key, in this namespace. */}}
{{- define "vilam3.secrets" -}}
{{- $secrets := list (printf "%s:keys" .Values.serving.apiKeysSecret) (printf "%s:internal" .Values.serving.apiKeysSecret) -}}
{{- with .Values.storage.secret }}{{ $secrets = concat $secrets (list (printf "%s:AWS_ACCESS_KEY_ID" .) (printf "%s:AWS_SECRET_ACCESS_KEY" .)) }}{{ end -}}
{{- if and .Values.pacs.url .Values.pacs.authorizationSecret }}{{ $secrets = append $secrets (printf "%s:authorization" .Values.pacs.authorizationSecret) }}{{ end -}}
{{- if .Values.mlflow.enabled -}}
{{- if .Values.mlflow.postgresql.enabled -}}
{{- $secrets = append $secrets (printf "%s:password" .Values.mlflow.postgresql.secret) -}}
{{- else -}}
{{- $secrets = append $secrets (printf "%s:uri" .Values.mlflow.databaseSecret) -}}
{{- end -}}
{{- end -}}
{{- if include "vilam3.intake.enabled" . -}}
{{- with .Values.pipelines.intake.webhookSecret }}{{ $secrets = append $secrets (printf "%s:mlflow" .) }}{{ if $.Values.mlflow.enabled }}{{ $secrets = append $secrets (printf "%s:encryption" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- range .Values.image.pullSecrets }}{{ $secrets = append $secrets (printf "%s:.dockerconfigjson" .) }}{{ end -}}
{{- $secrets | uniq | join " " -}}
{{- end }}

{{- define "vilam3.preflight.arguments" -}}
- doctor
- --cluster
- --namespace
- {{ .Release.Namespace }}
{{- range splitList " " (include "vilam3.preflight.needs" .) | compact }}
- --need
- {{ . }}
{{- end }}
{{- range splitList " " (include "vilam3.secrets" .) | compact }}
- --secret
- {{ . }}
{{- end }}
{{- if include "vilam3.preflight.accelerated" . }}
- --accelerator
- {{ .Values.accelerator.resource }}
{{- end }}
{{- if and .Values.mlflow.enabled .Values.mlflow.postgresql.enabled }}
- --storage-class
- {{ .Values.storage.className | quote }}
{{- end }}
{{- end }}
