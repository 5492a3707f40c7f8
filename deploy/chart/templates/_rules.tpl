{{- /* What each role may do in a namespace of hosted meshes, and nothing else; docs/OPERATIONS.md says why (tests/chart_rendering.rs compares). */ -}}
{{- define "meshcert.rules.secretRules" -}}
- {apiGroups: [''], resources: [secrets], verbs: [list, watch]}
{{- end -}}

{{- define "meshcert.rules.observe" -}}
{{ include "meshcert.rules.secretRules" . }}
- {apiGroups: [meshcert.dev], resources: [certificaterenewals], verbs: [list, watch]}
{{- end -}}

{{- define "meshcert.rules.webhook" -}}
- {apiGroups: [meshcert.dev], resources: [certificaterenewals], verbs: [get, list, create]}
{{- end -}}

{{- define "meshcert.rules.act" -}}
- {apiGroups: [''], resources: [secrets], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [meshcert.dev], resources: [certificaterenewals], verbs: [get, list, watch, create, patch]}
- {apiGroups: [meshcert.dev], resources: [certificaterenewals/status], verbs: [update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, patch]}
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets], verbs: [get, list, patch]}
{{- if eq (get .Values.policy "engine" | default "native") "job" }}
- {apiGroups: [batch], resources: [jobs], verbs: [get, create, delete]}
- {apiGroups: [''], resources: [serviceaccounts], verbs: [get]}
{{- else }}
- {apiGroups: [batch], resources: [jobs], verbs: [get]}
{{- end }}
- {apiGroups: [''], resources: [pods], verbs: [list, delete]}
- {apiGroups: [''], resources: [services], verbs: [get, list]}
{{- if eq .Values.cluster.reach "portForward" }}
- {apiGroups: [''], resources: [pods/portforward], verbs: [get, create]}
{{- end }}
- {apiGroups: [''], resources: [events], verbs: [create]}
{{- end -}}
