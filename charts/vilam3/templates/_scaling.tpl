{{/* How serving parts scale. Experts scale by what the orchestrator counts: it is there when they are scaled to zero. */}}

{{- define "vilam3.scaler" -}}
{{- if ne .Values.autoscaling.with "auto" -}}
{{ .Values.autoscaling.with }}
{{- else -}}
{{ ternary "keda" "hpa" (.Capabilities.APIVersions.Has "keda.sh/v1alpha1/ScaledObject") }}
{{- end -}}
{{- end }}

{{- define "vilam3.scaledobject.spec" -}}
{{- $root := index . 0 }}{{- $part := index . 1 }}{{- $replicas := index . 2 -}}
scaleTargetRef:
  apiVersion: apps/v1
  kind: Deployment
  name: {{ include "vilam3.deployment" (list $root $part) }}
minReplicaCount: {{ $replicas.min }}
maxReplicaCount: {{ $replicas.max }}
{{- with $root.Values.autoscaling }}
pollingInterval: {{ .pollingIntervalSeconds }}
cooldownPeriod: {{ .cooldownSeconds }}
initialCooldownPeriod: {{ .initialCooldownSeconds }}
{{- if $replicas.min }}
fallback:
  failureThreshold: {{ .fallback.failureThreshold }}
  replicas: {{ max .fallback.replicas $replicas.min }}
{{- end }}
advanced:
  horizontalPodAutoscalerConfig:
    behavior:
      {{- include "vilam3.scaling.behavior" $root | nindent 6 }}
{{- end }}
{{- end }}

{{/* Up at once, down slowly: loading a model takes minutes. */}}
{{- define "vilam3.scaling.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 30}
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownStabilizationSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end }}

{{/* One trigger: (list $ part metric labels threshold), the part that counts, and labels such as `expert="CXR"` or none. */}}
{{- define "vilam3.trigger" -}}
{{- $root := index . 0 }}{{- $part := index . 1 }}{{- $metric := index . 2 }}{{- $labels := index . 3 }}{{- $threshold := index . 4 -}}
{{- if $root.Values.autoscaling.prometheus -}}
{{- $where := list (printf "namespace=%q" $root.Release.Namespace) (printf "service=%q" (include "vilam3.deployment" (list $root $part))) -}}
- type: prometheus
  metricType: AverageValue
  metadata:
    serverAddress: {{ $root.Values.autoscaling.prometheus }}
    query: {{ printf "sum(%s{%s})" $metric (concat $where (compact (list $labels)) | join ",") | squote }}
    threshold: {{ $threshold | quote }}
    activationThreshold: "0"
{{- else -}}
- type: metrics-api
  metricType: AverageValue
  metadata:
    # KEDA goes to every endpoint of the Service and looks for the port of the pods, not of the Service.
    url: http://{{ include "vilam3.host" (list $root $part) }}:8080/metrics
    format: prometheus
    valueLocation: {{ printf "%s%s" $metric (ternary "" (printf "{%s}" $labels) (empty $labels)) | squote }}
    aggregateFromKubeServiceEndpoints: "true"
    aggregationType: sum
    targetValue: {{ $threshold | quote }}
    activationTargetValue: "0"
{{- end }}
{{- end }}

{{/* Where KEDA is absent. The processor says little about a model on an accelerator, and nothing scales to zero. */}}
{{- define "vilam3.hpa.spec" -}}
{{- $root := index . 0 }}{{- $part := index . 1 }}{{- $replicas := index . 2 -}}
scaleTargetRef:
  apiVersion: apps/v1
  kind: Deployment
  name: {{ include "vilam3.deployment" (list $root $part) }}
minReplicas: {{ max 1 $replicas.min }}
maxReplicas: {{ $replicas.max }}
metrics:
  - type: Resource
    resource:
      name: cpu
      target:
        type: Utilization
        averageUtilization: {{ $root.Values.autoscaling.cpuPercent }}
behavior:
  {{- include "vilam3.scaling.behavior" $root | nindent 2 }}
{{- end }}

{{/* Disruption budget: one at a time, which also lets a single replica be moved. */}}
{{- define "vilam3.pdb.spec" -}}
maxUnavailable: 1
selector:
  matchLabels:
    {{- include "vilam3.selector" . | nindent 4 }}
{{- end }}
