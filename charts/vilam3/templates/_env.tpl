{{/* Environment: endpoints, and secrets by reference. The names are those the program reads. */}}

{{- define "vilam3.env.base" -}}
- name: HOME
  value: /tmp
- name: VILAM3_RUNS
  value: /tmp/vilam3
{{- end }}

{{/* Access to S3; without a Secret the pods' own identity is used (a cloud role of the ServiceAccount). */}}
{{- define "vilam3.env.s3" -}}
- name: AWS_DEFAULT_REGION
  value: {{ .Values.storage.region | quote }}
{{- with .Values.storage.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.storage.secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.storage.secret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "vilam3.env.tracking" -}}
{{- with include "vilam3.mlflow.uri" . }}
- name: MLFLOW_TRACKING_URI
  value: {{ . | quote }}
{{- end }}
{{- with .Values.storage.endpoint }}
- name: MLFLOW_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Of a serving process: where studies are kept. PHI: the bucket of storage.studies holds patient data. */}}
{{- define "vilam3.env.serving" -}}
{{- include "vilam3.env.base" . }}
{{- with .Values.storage.studies }}
- name: VILAM3_STUDIES_URI
  value: {{ . | quote }}
{{- end }}
{{- with .Values.serving.tracesEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{ include "vilam3.env.s3" . }}
{{- end }}

{{/* Of the process that callers reach: where images may come from, and where segmentations go. */}}
{{- define "vilam3.env.sources" -}}
{{- with .Values.sources }}
{{- range $variable, $listed := dict "HOSTS" .hosts "NETWORKS" .networks "BUCKETS" .buckets }}
{{- with $listed }}
- name: VILAM3_IMAGE_{{ $variable }}
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}
- name: VILAM3_IMAGE_SECONDS
  value: {{ .seconds | quote }}
{{- end }}
{{- with .Values.pacs.url }}
- name: VILAM3_PACS_URL
  value: {{ . | quote }}
- name: VILAM3_PACS_SEGMENTATION
  value: {{ $.Values.pacs.segmentation }}
{{- with $.Values.pacs.authorizationSecret }}
- name: VILAM3_PACS_AUTHORIZATION
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: authorization
{{- end }}
{{- end }}
{{- end }}

{{/* API keys are a file, mounted from the Secret; every part asks for one. */}}
{{- define "vilam3.keys.env" -}}
- name: VILAM3_API_KEYS_FILE
  value: /etc/vilam3/keys
{{- end }}

{{/* The key with which one part calls another. */}}
{{- define "vilam3.keys.internal" -}}
- name: VILAM3_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.serving.apiKeysSecret }}
      key: internal
{{- end }}

{{- define "vilam3.keys.mount" -}}
- name: keys
  mountPath: /etc/vilam3
  readOnly: true
{{- end }}

{{- define "vilam3.keys.volume" -}}
- name: keys
  secret:
    secretName: {{ .Values.serving.apiKeysSecret }}
    defaultMode: 0440
    items:
      - {key: keys, path: keys}
{{- end }}
