{{/*
The process of a predictor with a model. `server` is a dict with its model's format, args that it is told besides what
every process of that format is, models, and workload, the values it is described by.

Where KServe fetches the weights, it merges a ServingRuntime with what is said here. Where it does not, it would take the
predictor for one of many models and put its agent and an empty /mnt/models into the pod; so the container is given whole.
*/}}

{{/* (list $ server) */}}
{{- define "vilam3.predictor.server" -}}
{{- $root := first . }}{{- $server := last . -}}
{{- if include "vilam3.models.storage" (list $root $server.models) | trim -}}
model:
  modelFormat:
    name: {{ $server.format }}
  runtime: {{ include "vilam3.name" (list $root $server.format) }}
  protocolVersion: v1
  {{- with $server.args }}
  args: {{ toJson . }}
  {{- end }}
  {{- include "vilam3.predictor.details" . | nindent 2 }}
{{- else -}}
containers:
  {{- include "vilam3.runtime.container" (list $root $server.format $server.args) | nindent 2 }}
    {{- include "vilam3.predictor.details" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "vilam3.predictor.details" -}}
{{- $root := first . }}{{- $server := last . -}}
env:
  {{- include "vilam3.env.serving" $root | nindent 2 }}
  {{- include "vilam3.keys.env" $root | nindent 2 }}
resources:
  {{- include "vilam3.resources" (list $root $server.workload.resources $server.workload.gpus) | nindent 2 }}
volumeMounts:
  {{- include "vilam3.model.mounts" (list $root $server.models) | nindent 2 }}
{{- end }}

{{/* What processes of a format are told, as JSON: "vila-m3" is the VLM, every other an expert. */}}
{{- define "vilam3.predictor.base" -}}
{{- $which := ternary (list "vlm" "--model" "/mnt/models/vlm") (list "expert" "--experts" "/mnt/models") (eq . "vila-m3") -}}
{{- concat (list "serve" "--role") $which (list "--host" "0.0.0.0" "--port" "8080") | toJson -}}
{{- end }}

{{/* What the process with the VLM is told of its engine, as JSON. */}}
{{- define "vilam3.engine.args" -}}
{{- $args := list "--slots" (toString .Values.vlm.slots) "--waiting" (toString .Values.vlm.waiting) -}}
{{- if eq .Values.vlm.engine "torch" -}}
{{- $args = concat $args (list "--memory-gib" (toString .Values.vlm.memoryGiB)) -}}
{{- else -}}
{{- $args = concat $args (list "--engine" .Values.vlm.engine) -}}
{{- with .Values.vlm.engineOptions }}{{ $args = concat $args (list "--engine-options" (toJson .)) }}{{ end -}}
{{- end -}}
{{- toJson $args -}}
{{- end }}

{{/* Minutes that a model of a format may take to load. */}}
{{- define "vilam3.predictor.minutes" -}}
{{- ternary 30 10 (eq . "vila-m3") -}}
{{- end }}
