{{/*
The loop of VLM and experts without a cycle, unrolled to serving.rounds: the router has no bound of its own and would go
on after its caller has left. `vilam3.graph` of the program makes the same nodes; a test holds both to one form.

All dependencies are Hard on purpose: the router replaces the body by what a step returns, so that after a Soft failure
the next step would get the error in place of the conversation. An expert that fails says so within the conversation,
with status 200, so that the answer still comes and names it. In a Switch the router only logs.
*/}}

{{- define "vilam3.graph.nodes" -}}
{{- $experts := splitList " " (include "vilam3.experts" .) | compact }}
{{- $rounds := ternary (int .Values.serving.rounds) 0 (gt (len $experts) 0) }}
{{- $reply := printf "%s?rounds=%d" (include "vilam3.graph.url" (list . "vlm")) $rounds -}}
root:
  routerType: Sequence
  steps:
    - name: reply-0
      serviceUrl: {{ $reply }}
      dependency: Hard
    {{- range $round := untilStep 1 (int (add $rounds 1)) 1 }}
    - name: experts-{{ $round }}
      nodeName: experts
      data: $response
      # Where the reply calls no expert the sequence ends here, with the answer.
      condition: '[@this].#(expert%"?*")'
      dependency: Hard
    - name: reply-{{ $round }}
      serviceUrl: {{ $reply }}
      data: $response
      dependency: Hard
    {{- end }}
{{- if $experts }}
experts:
  routerType: Switch
  steps:
    {{- range $experts }}
    - name: {{ . }}
      serviceUrl: {{ include "vilam3.graph.url" (list $ .) }}
      condition: '[@this].#(expert=={{ upper . | quote }})'
      dependency: Hard
    {{- end }}
    # A Switch without a match is a 404: a call that no expert here answers passes, and the model is told.
    - name: pass
      serviceUrl: {{ include "vilam3.graph.url" (list . "vlm") }}/pass
      condition: '@this'
      dependency: Hard
{{- end }}
{{- end }}

{{/* What the VLM is told of the experts that a graph may ask, as JSON; added ones show it their cards. */}}
{{- define "vilam3.graph.args" -}}
{{- $args := list -}}
{{- if .Values.serving.graph -}}
{{- range splitList " " (include "vilam3.experts" .) | compact -}}
{{- $args = concat $args (list "--expert-url" (printf "%s=http://%s" (upper .) (include "vilam3.host" (list $ .)))) -}}
{{- end -}}
{{- end -}}
{{- toJson $args -}}
{{- end }}

{{- define "vilam3.graph.url" -}}
http://{{ include "vilam3.host" . }}/v1/graph
{{- end }}
