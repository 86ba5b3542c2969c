{{/* Which way the compiled pipelines reach Kubeflow Pipelines. */}}
{{- define "vilam3.pipelines.delivery" -}}
{{- if not .Values.pipelines.enabled -}}
none
{{- else if ne .Values.pipelines.delivery "auto" -}}
{{ .Values.pipelines.delivery }}
{{- else -}}
{{ ternary "kubernetes" "upload" (.Capabilities.APIVersions.Has "pipelines.kubeflow.org/v2beta1/PipelineVersion") }}
{{- end -}}
{{- end }}

{{/* A compiled pipeline with the images of this installation: (list $ "finetune"). */}}
{{- define "vilam3.pipelines.compiled" -}}
{{- $root := first . -}}
{{- $folder := printf "files/pipelines/%s%s" $root.Values.pipelines.recipe (ternary "/jobs" "" (ne $root.Values.pipelines.launcher "here")) -}}
{{- $compiled := $root.Files.Get (printf "%s/%s.yaml" $folder (last .)) | replace "vilam3-s3" ($root.Values.storage.secret | default "vilam3-s3") -}}
{{- $compiled | replace (printf "localhost/vilam3-gpu:%s" $root.Chart.AppVersion) (include "vilam3.image.compute" $root) -}}
{{- end }}

{{/* Twelve digits of what is in it, so that a new content is a new version and the same content is none. */}}
{{- define "vilam3.pipelines.hash" -}}
{{- include "vilam3.pipelines.compiled" . | sha256sum | trunc 12 -}}
{{- end }}

{{/* What the page shows of a version: (list $ "finetune"). */}}
{{- define "vilam3.pipelines.version" -}}
{{- $root := first . -}}
{{ $root.Chart.AppVersion }}-{{ $root.Values.pipelines.recipe }}-{{ include "vilam3.pipelines.hash" . }}
{{- end }}

{{/* Objects of a pipeline live where KFP runs it: (list $ "finetune"). Its name is the one it was compiled with. */}}
{{- define "vilam3.pipelines.metadata" -}}
namespace: {{ (first .).Values.pipelines.namespace }}
labels:
  {{- include "vilam3.labels" . | nindent 2 }}
{{- end }}
