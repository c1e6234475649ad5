package pod

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Support says what podrun does with a field of a manifest.
type Support int

// The kinds of support.
const (
	Supported Support = iota // does what Kubernetes says
	NoEffect                 // accepted; it has no effect on one node
	Refused                  // the manifest is refused
)

type rule struct {
	support Support
	why     string
}

var (
	yes   = rule{Supported, ""}
	later = rule{Refused, "not supported by this version of podrun"}
)

func noEffect(why string) rule { return rule{NoEffect, why} }

// fieldRules classifies every field of a pod's spec, by path with indexes and
// map keys left out. A rule holds for all that is below its path that has no
// rule of its own.
var fieldRules = map[string]rule{
	"spec.containers":                                                 yes,
	"spec.initContainers":                                             yes,
	"spec.containers.envFrom":                                         yes,
	"spec.containers.env.valueFrom":                                   yes,
	"spec.containers.env.valueFrom.fieldRef":                          yes,
	"spec.containers.ports.hostPort":                                  later,
	"spec.containers.ports.hostIP":                                    later,
	"spec.containers.resizePolicy":                                    noEffect("podrun does not resize running containers"),
	"spec.containers.resources.claims":                                later,
	"spec.containers.restartPolicy":                                   yes,
	"spec.containers.restartPolicyRules":                              yes,
	"spec.containers.volumeMounts.subPath":                            yes,
	"spec.containers.volumeMounts.bindMountOptions":                   later,
	"spec.containers.volumeMounts.subPathExpr":                        yes,
	"spec.containers.volumeMounts.mountPropagation":                   yes,
	"spec.containers.volumeMounts.recursiveReadOnly":                  yes,
	"spec.containers.volumeDevices":                                   later,
	"spec.containers.livenessProbe":                                   yes,
	"spec.containers.readinessProbe":                                  yes,
	"spec.containers.startupProbe":                                    yes,
	"spec.containers.lifecycle":                                       yes,
	"spec.containers.terminationMessagePath":                          yes,
	"spec.containers.terminationMessagePolicy":                        yes,
	"spec.containers.stdinOnce":                                       yes,
	"spec.containers.securityContext.privileged":                      yes,
	"spec.containers.securityContext.procMount":                       yes,
	"spec.containers.securityContext.seLinuxOptions":                  later,
	"spec.containers.securityContext.windowsOptions":                  later,
	"spec.containers.securityContext.appArmorProfile":                 later,
	"spec.containers.securityContext.seccompProfile.localhostProfile": yes,

	"spec.restartPolicy":                 yes,
	"spec.terminationGracePeriodSeconds": yes,
	"spec.activeDeadlineSeconds":         yes,
	"spec.dnsPolicy":                     yes,
	"spec.dnsConfig":                     yes,
	"spec.hostname":                      yes,
	"spec.subdomain":                     yes,
	"spec.hostAliases":                   yes,
	"spec.shareProcessNamespace":         yes,

	"spec.securityContext":                                 later,
	"spec.securityContext.fsGroup":                         yes,
	"spec.securityContext.fsGroupChangePolicy":             yes,
	"spec.securityContext.supplementalGroupsPolicy":        yes,
	"spec.securityContext.runAsUser":                       yes,
	"spec.securityContext.runAsGroup":                      yes,
	"spec.securityContext.runAsNonRoot":                    yes,
	"spec.securityContext.supplementalGroups":              yes,
	"spec.securityContext.sysctls":                         yes,
	"spec.securityContext.seccompProfile":                  yes,
	"spec.securityContext.seccompProfile.localhostProfile": yes,

	"spec.volumes":                       later,
	"spec.volumes.name":                  yes,
	"spec.volumes.emptyDir":              yes,
	"spec.volumes.hostPath":              yes,
	"spec.volumes.configMap":             yes,
	"spec.volumes.secret":                yes,
	"spec.volumes.downwardAPI":           yes,
	"spec.volumes.projected":             yes,
	"spec.volumes.persistentVolumeClaim": yes,
	"spec.volumes.image":                 yes,

	"spec.evictionResponders":  later,
	"spec.ephemeralContainers": later,
	"spec.hostNetwork":         yes,
	"spec.hostPID":             yes,
	"spec.hostIPC":             yes,
	"spec.hostUsers":           yes,
	"spec.hostnameOverride":    yes,
	"spec.setHostnameAsFQDN":   yes,
	"spec.imagePullSecrets":    yes,
	"spec.resourceClaims":      later,
	"spec.resources":           yes,
	"spec.overhead":            later,
	"spec.runtimeClassName":    later,
	"spec.os":                  noEffect("podrun runs Linux"),

	"spec.nodeSelector":                 noEffect("there is one node"),
	"spec.nodeName":                     noEffect("there is one node"),
	"spec.affinity":                     noEffect("there is one node"),
	"spec.tolerations":                  noEffect("the node has no taints"),
	"spec.topologySpreadConstraints":    noEffect("there is one node"),
	"spec.schedulerName":                noEffect("there is no scheduler"),
	"spec.schedulingGates":              later,
	"spec.schedulingGroup":              noEffect("there is no scheduler"),
	"spec.workloadRef":                  noEffect("there is no scheduler"),
	"spec.priorityClassName":            noEffect("no pod is preempted"),
	"spec.priority":                     noEffect("no pod is preempted"),
	"spec.preemptionPolicy":             noEffect("no pod is preempted"),
	"spec.serviceAccountName":           noEffect("there is no API server to authenticate to"),
	"spec.serviceAccount":               noEffect("there is no API server to authenticate to"),
	"spec.automountServiceAccountToken": noEffect("there is no API server to authenticate to"),
	"spec.enableServiceLinks":           noEffect("there are no services"),
	"spec.readinessGates":               yes,
}

// ruleFor returns the rule of a path: its own, or that of the nearest path
// above it. Init containers have the rules of containers.
func ruleFor(path string) (rule, bool) {
	path = strings.Replace(path, "spec.initContainers", "spec.containers", 1)
	for path != "" {
		if r, ok := fieldRules[path]; ok {
			return r, true
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return rule{}, false
}

// Problem is a field that podrun does not honour.
type Problem struct {
	Field  string // spec.containers[0].livenessProbe
	Reason string
}

// Unsupported lists the fields of a defaulted pod that podrun refuses, and
// those that it accepts without effect. Fields that only hold their default
// are not listed.
func Unsupported(p *corev1.Pod) (refused, ignored []Problem) {
	base := &corev1.Pod{}
	base.Spec.Containers = []corev1.Container{{Image: "x:1"}}
	Default(base)
	walkSet(reflect.ValueOf(p.Spec), "spec", "spec", func(path, plain string, v reflect.Value) bool {
		r, ok := ruleFor(plain)
		if !ok {
			refused = append(refused, Problem{path, later.why})
			return false
		}
		switch r.support {
		case Refused:
			if !hasRulesBelow(plain) {
				refused = append(refused, Problem{path, r.why})
				return false
			}
		case NoEffect:
			if !isDefault(base, plain, v) {
				ignored = append(ignored, Problem{path, r.why})
			}
			return false
		}
		return true
	})
	return refused, ignored
}

// hasRulesBelow tells whether something below a refused path has a rule of its
// own, so that the refusal is for its other fields.
func hasRulesBelow(plain string) bool {
	plain = strings.Replace(plain, "spec.initContainers", "spec.containers", 1)
	for path := range fieldRules {
		if strings.HasPrefix(path, plain+".") {
			return true
		}
	}
	return false
}

// isDefault tells whether v is what Default sets at a path.
func isDefault(base *corev1.Pod, plain string, v reflect.Value) bool {
	same := false
	walkSet(reflect.ValueOf(base.Spec), "spec", "spec", func(_, at string, d reflect.Value) bool {
		if at == strings.Replace(plain, "initContainers", "containers", 1) && reflect.DeepEqual(d.Interface(), v.Interface()) {
			same = true
		}
		return true
	})
	return same
}

// walkSet calls visit for every field below v that is set, with its path and
// the same without indexes; visit tells whether to go on below it.
func walkSet(v reflect.Value, path, plain string, visit func(path, plain string, v reflect.Value) bool) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		if _, leaf := special[v.Type()]; leaf {
			return
		}
		t := v.Type()
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			f := v.Field(i)
			if name == "" && t.Field(i).Anonymous {
				walkSet(f, path, plain, visit)
				continue
			}
			if name == "-" || name == "" || f.IsZero() {
				continue
			}
			if visit(path+"."+name, plain+"."+name, f) {
				walkSet(f, path+"."+name, plain+"."+name, visit)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkSet(v.Index(i), fmt.Sprintf("%s[%d]", path, i), plain, visit)
		}
	}
}

// HasRule tells whether a field is classified, by its path without indexes.
// The test that walks the type asks.
func HasRule(path string) bool {
	_, ok := ruleFor(path)
	return ok
}
