{{- /* What Pod Security's profile "restricted" asks for. */ -}}
{{- define "meshcert.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "meshcert.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "meshcert.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* Where a process finds its files; takes (context, process, name of its ConfigMap). */ -}}
{{- define "meshcert.mounts" -}}
- {name: config, mountPath: /etc/meshcert/config, readOnly: true}
{{- range (include "meshcert.remotes" . | fromJson).items }}
{{- $cluster := .name }}
{{- range .roles }}
- {name: {{ printf "kubeconfig-%s-%s" .role (include "meshcert.volume" $cluster) }}, mountPath: {{ dir .path }}, readOnly: true}
{{- end }}
{{- end }}
{{- if and (index . 0).Values.tls.existingSecret (index . 1).component }}
- {name: tls, mountPath: /etc/meshcert/tls, readOnly: true}
{{- end }}
{{- if has "webhook" (index . 1).roles }}
{{- if eq (include "meshcert.usesCredentials" (index . 0)) "true" }}
- {name: webhook, mountPath: /etc/meshcert/webhook, readOnly: true}
{{- end }}
{{- if (index . 0).Values.webhook.tls.existingSecret }}
- {name: webhook-tls, mountPath: /etc/meshcert/webhook-tls, readOnly: true}
{{- end }}
{{- if and (index . 0).Values.webhook.meshesFrom.caSecret (not (has "observe" (index . 1).roles)) }}
- {name: observe-ca, mountPath: /etc/meshcert/observe-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "meshcert.volumes" -}}
- name: config
  configMap: {name: {{ index . 2 }}}
{{- range (include "meshcert.remotes" . | fromJson).items }}
{{- $cluster := .name }}
{{- range .roles }}
- name: {{ printf "kubeconfig-%s-%s" .role (include "meshcert.volume" $cluster) }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- if (index . 1).component }}
{{- with (index . 0).Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- if has "webhook" (index . 1).roles }}
{{- if eq (include "meshcert.usesCredentials" (index . 0)) "true" }}
- name: webhook
  secret: {secretName: {{ include "meshcert.credentials" (index . 0) }}, defaultMode: 0440}
{{- end }}
{{- with (index . 0).Values.webhook.tls.existingSecret }}
- name: webhook-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if not (has "observe" (index . 1).roles) }}
{{- with (index . 0).Values.webhook.meshesFrom.caSecret }}
- name: observe-ca
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A volume's name has no dots, underscores or capitals, and at most 63 characters; a cluster's may. */ -}}
{{- define "meshcert.volume" -}}
{{- if regexMatch "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" . -}}{{ . }}{{- else -}}{{ sha256sum . | trunc 20 }}{{- end -}}
{{- end -}}

{{- /* Whether a Secret with a token or password is mounted: with client certificates alone there is none. */ -}}
{{- define "meshcert.usesCredentials" -}}
{{- with .Values.webhook.credentials -}}
{{- if or .bearerTokenKey .basicAuth.username -}}true{{- end -}}
{{- end -}}
{{- end -}}
