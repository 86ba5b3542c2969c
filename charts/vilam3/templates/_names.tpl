{{/* Every name, label and address of this chart; nothing is spelled in two places. */}}

{{- define "vilam3.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-vilam3" .Release.Name) (contains "vilam3" .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The name of a part: (list $ "vlm"). */}}
{{- define "vilam3.name" -}}
{{ include "vilam3.fullname" (first .) }}-{{ last . }}
{{- end }}

{{/* Cluster-wide objects carry the namespace, so that two installations do not claim the same one. */}}
{{- define "vilam3.clusterName" -}}
{{ (first .).Release.Namespace }}-{{ include "vilam3.name" . }}
{{- end }}

{{/* What an upgrade may not change: (list $ "vlm"). */}}
{{- define "vilam3.selector" -}}
app.kubernetes.io/name: vilam3
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{- define "vilam3.labels" -}}
{{ include "vilam3.selector" . }}
app.kubernetes.io/part-of: vilam3
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
helm.sh/chart: vilam3-{{ (first .).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* metadata of an object of a part: (list $ "vlm"). */}}
{{- define "vilam3.metadata" -}}
name: {{ include "vilam3.name" . }}
namespace: {{ (first .).Release.Namespace }}
labels:
  {{- include "vilam3.labels" . | nindent 2 }}
{{- end }}

{{/* The Deployment behind a serving part, which autoscalers and disruption budgets act on. KServe names it so. */}}
{{- define "vilam3.deployment" -}}
{{ include "vilam3.name" . }}-predictor
{{- end }}

{{/* Host of a serving part within the cluster. */}}
{{- define "vilam3.host" -}}
{{ include "vilam3.deployment" . }}.{{ (first .).Release.Namespace }}.svc
{{- end }}

{{/* Where the public endpoint is, in each mode; KServe's Services listen on 80. */}}
{{- define "vilam3.endpoint" -}}
{{- if eq .Values.serving.mode "kserve" -}}
http://{{ include "vilam3.host" (list . "orchestrator") }}
{{- else if eq .Values.serving.mode "ray" -}}
http://{{ include "vilam3.name" (list . "ray") }}-serve-svc.{{ .Release.Namespace }}.svc:8000
{{- else -}}
http://{{ include "vilam3.name" (list . "endpoint") }}.{{ .Release.Namespace }}.svc
{{- end -}}
{{- end }}

{{- define "vilam3.mlflow.uri" -}}
{{- .Values.mlflow.uri | default (ternary (printf "http://%s.%s.svc:5000" (include "vilam3.name" (list . "mlflow")) .Release.Namespace) "" .Values.mlflow.enabled) -}}
{{- end }}

{{/* Names of the enabled experts, in lower case and in a fixed order: "brats cxr vista3d". */}}
{{- define "vilam3.experts" -}}
{{- $names := list -}}
{{- range $name, $expert := .Values.experts -}}
{{- if $expert.enabled -}}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- $names | sortAlpha | join " " -}}
{{- end }}
