{{/* What a pod asks for and where it may run. */}}

{{/*
Requests and limits: (list $ resources gpus). Memory and accelerators are not overcommitted, so both are the same;
processors may be lent beyond the request. A limit is always set, since KServe would add one of its own.
*/}}
{{- define "vilam3.resources" -}}
{{- $root := index . 0 }}{{- $wanted := index . 1 }}{{- $gpus := index . 2 -}}
requests:
  cpu: {{ $wanted.cpu | quote }}
  memory: {{ $wanted.memory }}
  {{- if $gpus }}
  {{ $root.Values.accelerator.resource }}: {{ $gpus | quote }}
  {{- end }}
  {{- range $name, $count := $wanted.extended }}
  {{ $name }}: {{ $count | quote }}
  {{- end }}
limits:
  cpu: {{ $wanted.cpuLimit | default $wanted.cpu | quote }}
  memory: {{ $wanted.memory }}
  {{- if $gpus }}
  {{ $root.Values.accelerator.resource }}: {{ $gpus | quote }}
  {{- end }}
  {{- range $name, $count := $wanted.extended }}
  {{ $name }}: {{ $count | quote }}
  {{- end }}
{{- end }}

{{/*
Where a pod may run: (list $ workload gpus priority); the workload's own selector and tolerations on top of the shared
ones. What serves or trains is not left on a silent node for the five minutes that Kubernetes would wait.
*/}}
{{- define "vilam3.placement" -}}
{{- $root := index . 0 }}{{- $own := index . 1 }}{{- $gpus := index . 2 -}}
{{- $shared := ternary $root.Values.accelerator dict (gt (int $gpus) 0) -}}
{{- $lost := ternary list (include "vilam3.lost" $root | fromYamlArray) (empty (index . 3)) -}}
{{- with mergeOverwrite (dict) (default dict $shared.nodeSelector) (default dict $own.nodeSelector) }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat (default list $shared.tolerations) (default list $own.tolerations) $lost }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $shared.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "vilam3.lost" -}}
{{- range list "not-ready" "unreachable" }}
- key: node.kubernetes.io/{{ . }}
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ $.Values.serving.nodeLostSeconds }}
{{- end }}
{{- end }}

{{/* Priority of a kind of work: (list $ "serving"). */}}
{{- define "vilam3.priority" -}}
{{- if (first .).Values.priorityClasses }}
priorityClassName: {{ include "vilam3.clusterName" . }}
{{- end }}
{{- end }}

{{/* Spread over nodes, where there are several: (list $ "vlm"). */}}
{{- define "vilam3.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "vilam3.selector" . | nindent 6 }}
{{- end }}
