{{/*
The loop of VLM and experts without a cycle, unrolled to serving.rounds: the router has no bound of its own and would go
on after its caller has left. A step gets the whole conversation and returns it, because the router replaces the body.

Hard wherever the next step reads the body: after a Soft failure the router would hand the error to the VLM as if it
were the conversation. An expert that fails says so inside a conversation with status 200, so the answer still comes and
names it. Soft on the steps of a Switch, where the router only logs.
*/}}

{{- define "vilam3.graph.nodes" -}}
root:
  routerType: Sequence
  steps:
    - name: vlm-0
      serviceUrl: {{ include "vilam3.graph.url" (list . "vlm") }}
      dependency: Hard
    {{- range $round := untilStep 1 (int (add .Values.serving.rounds 1)) 1 }}
    - name: experts-{{ $round }}
      nodeName: experts
      data: $response
      # Where the VLM asked for no expert the sequence ends here, with its answer.
      condition: '[@this].#(expert%"?*")'
      dependency: Hard
    - name: vlm-{{ $round }}
      serviceUrl: {{ include "vilam3.graph.url" (list $ "vlm") }}
      data: $response
      dependency: Hard
    {{- end }}
experts:
  routerType: Switch
  steps:
    {{- range splitList " " (include "vilam3.experts" .) | compact }}
    - name: {{ . }}
      serviceUrl: {{ include "vilam3.graph.url" (list $ .) }}
      condition: '[@this].#(expert=={{ upper . | quote }})'
      dependency: Soft
    {{- end }}
{{- end }}

{{- define "vilam3.graph.url" -}}
http://{{ include "vilam3.host" . }}/v1/graph
{{- end }}
