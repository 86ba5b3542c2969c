{{/*
Where weights come from. KServe fetches s3:// and oci://. What it does not know (models:/ of MLflow), and everything
where there is no KServe, our own program fetches in an init container. Claims are mounted here in every mode: from a
list of storageUris KServe 0.19 mounts the root of a claim, whatever path follows its name.
A model is {name, uri, path}: `path` is where its weights appear. Arguments: (list $ models).
*/}}

{{- define "vilam3.model.isFetched" -}}
{{- $root := first . }}{{- $uri := (last .).uri -}}
{{- if or (hasPrefix "models:/" $uri) (and (hasPrefix "s3://" $uri) (ne $root.Values.serving.mode "kserve")) }}true{{ end -}}
{{- end }}

{{- define "vilam3.model.claim" -}}
{{- trimPrefix "pvc://" . | splitList "/" | first -}}
{{- end }}

{{/* For KServe's predictor. */}}
{{- define "vilam3.models.storage" -}}
{{- $fetched := list }}
{{- range last . }}
{{- if or (hasPrefix "s3://" .uri) (hasPrefix "oci://" .uri) }}
{{- $fetched = append $fetched (dict "uri" .uri "mountPath" .path) }}
{{- end }}
{{- end }}
{{- with $fetched }}
storageUris:
  {{- range . }}
  - uri: {{ .uri | quote }}
    mountPath: {{ .mountPath }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "vilam3.models.init" -}}
{{- $root := first . }}
{{- range last . }}
{{- if include "vilam3.model.isFetched" (list $root .) }}
- name: fetch-{{ .name }}
  image: {{ include "vilam3.image.compute" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [model, fetch, --source, {{ .uri | quote }}, --out, {{ .path }}]
  env:
    {{- include "vilam3.env.base" $root | nindent 4 }}
    {{- include "vilam3.env.s3" $root | nindent 4 }}
    {{- include "vilam3.env.tracking" $root | trim | nindent 4 }}
  resources:
    requests: {cpu: 500m, memory: 1Gi}
    limits: {cpu: "2", memory: 2Gi}
  securityContext:
    {{- include "vilam3.container.security" $root | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    - name: models
      mountPath: /mnt/models
{{- end }}
{{- end }}
{{- end }}

{{/* A claim is mounted where fetched weights would be. */}}
{{- define "vilam3.models.mounts" -}}
{{- $root := first . }}
{{- if include "vilam3.models.areFetched" . }}
- name: models
  mountPath: /mnt/models
{{- end }}
{{- range last . }}
{{- if hasPrefix "pvc://" .uri }}
- name: model-{{ .name }}
  mountPath: {{ .path }}
  {{- with trimPrefix (printf "pvc://%s" (include "vilam3.model.claim" .uri)) .uri | trimAll "/" }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "vilam3.models.volumes" -}}
{{- $root := first . }}
{{- if include "vilam3.models.areFetched" . }}
- name: models
  emptyDir: {}
{{- end }}
{{- range last . }}
{{- if hasPrefix "pvc://" .uri }}
- name: model-{{ .name }}
  persistentVolumeClaim:
    claimName: {{ include "vilam3.model.claim" .uri }}
    readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "vilam3.models.areFetched" -}}
{{- $root := first . }}
{{- range last . }}{{ include "vilam3.model.isFetched" (list $root .) }}{{ end -}}
{{- end }}

{{/* Models of one expert's pod, as JSON: its own and those of the experts that it needs: (list $ name). */}}
{{- define "vilam3.models.expert" -}}
{{- $root := first . -}}
{{- $models := list -}}
{{- range prepend ((index $root.Values.experts (last .)).needs | default list) (last .) -}}
{{- $expert := index $root.Values.experts . -}}
{{- $models = append $models (dict "name" . "uri" $expert.model "path" (printf "/mnt/models/%s" $expert.bundle)) -}}
{{- end -}}
{{- toJson $models -}}
{{- end }}

{{/* All models of an installation in one pod, as JSON: the VLM, and each enabled expert where its registry looks. */}}
{{- define "vilam3.models.all" -}}
{{- $models := list (dict "name" "vlm" "uri" .Values.vlm.model "path" "/mnt/models/vlm") -}}
{{- range splitList " " (include "vilam3.experts" .) | compact -}}
{{- $expert := index $.Values.experts . -}}
{{- $models = append $models (dict "name" . "uri" $expert.model "path" (printf "/mnt/models/experts/%s" $expert.bundle)) -}}
{{- end -}}
{{- toJson $models -}}
{{- end }}
