package pod

const (
	oneNode     = "there is one node"
	noScheduler = "there is no scheduler"
	noEviction  = "no pod is preempted or evicted"
	noServer    = "there is no API server to authenticate to"
	alpha       = "an alpha field of Kubernetes 1.37, which is off by default there"
	notWindows  = "podrun runs Linux containers"
)

var metadataFields = section{"Metadata", "", []rule{
	{Supported, "{kind,apiVersion}", ""},
	{Supported, "metadata.name", ""},
	{Supported, "metadata.namespace", "`default` where the manifest and `-n` name none"},
	{Supported, "metadata.{labels,annotations}", ""},
	{Refused, "metadata.generateName", "a pod without a name cannot be applied again; write metadata.name"},
	{Refused, "metadata.finalizers", "nothing on this node removes finalizers, so that the pod could not be deleted"},
	{NoEffect, "metadata.ownerReferences.*", "there is no garbage collector; the pod stays when its owner goes"},
	{ReadOnly, "metadata.{uid,resourceVersion,generation,creationTimestamp,selfLink}", ""},
	{ReadOnly, "metadata.{deletionTimestamp,deletionGracePeriodSeconds}", ""},
	{ReadOnly, "metadata.managedFields.*", "podrun keeps no field managers"},
}}

var statusFields = section{"Status", "", []rule{
	{ReadOnly, "status.*", ""},
}}

var podFields = section{"Pod", "spec.", []rule{
	{Supported, "restartPolicy", "`Always` and `OnFailure` restart all containers of the pod together"},
	{Supported, "{terminationGracePeriodSeconds,activeDeadlineSeconds}", ""},
	{Supported, "shareProcessNamespace", ""},
	{Supported, "{hostPID,hostIPC}", "the host's own namespace"},
	{Supported, "hostUsers", "an ordinary user's pods always have a user namespace; as root, false gives the pod users of its own"},
	{Supported, "imagePullSecrets.name", ""},
	{Supported, "readinessGates.conditionType", "the pod is not ready until something sets the condition"},
	{Supported, "os.name", "`linux`"},
	{Supported, "resources.{limits,requests}.{cpu,memory}", "of all containers together"},
	{Refused, "resources.{limits,requests}.hugepages-*", noHugePages},
	{Refused, "{resources.claims,resourceClaims}.*", noDevices},
	{Refused, "overhead", "it comes with a RuntimeClass, which podrun has not"},
	{Refused, "runtimeClassName", "podrun has one runtime; leave the field out"},
	{Refused, "ephemeralContainers.*", "ephemeral containers are added to a running pod, not applied with it"},
	{NoEffect, "{serviceAccountName,serviceAccount,automountServiceAccountToken}", noServer},
	{Supported, "enableServiceLinks", "there are no services to name"},
	{Refused, "evictionResponders.*", alpha},
}}

var networkFields = section{"Network and names", "spec.", []rule{
	{Supported, "hostNetwork", "the network of the host itself"},
	{Supported, "{hostname,subdomain,setHostnameAsFQDN,hostnameOverride}", ""},
	{Supported, "hostAliases.{ip,hostnames}", ""},
	{Supported, "dnsPolicy", ""},
	{Supported, "dnsConfig.{nameservers,searches,options.{name,value}}", ""},
}}

var schedulingFields = section{"Scheduling", "spec.", []rule{
	{NoEffect, "{nodeName,nodeSelector}", oneNode},
	{NoEffect, "{affinity,topologySpreadConstraints}.*", oneNode},
	{NoEffect, "tolerations.*", "the node has no taints"},
	{NoEffect, "schedulerName", noScheduler},
	{NoEffect, "schedulingGroup.*", noScheduler},
	{NoEffect, "{priorityClassName,priority,preemptionPolicy}", noEviction},
	{Refused, "schedulingGates.*", "nothing on this node removes scheduling gates, so that the pod could not start"},
}}

var podSecurityFields = section{"Security of the pod", "spec.securityContext.", []rule{
	{Supported, "{runAsUser,runAsGroup,runAsNonRoot}", ""},
	{Supported, "{supplementalGroups,supplementalGroupsPolicy}", ""},
	{Supported, "{fsGroup,fsGroupChangePolicy}", ""},
	{Supported, "sysctls.{name,value}", "the namespaced ones"},
	{Supported, "seccompProfile.type", "`RuntimeDefault` where nothing is said"},
	{Supported, "seccompProfile.localhostProfile", "below `seccomp` in the data directory"},
	{NoEffect, "appArmorProfile.*", noAppArmor},
	{NoEffect, "seLinuxOptions.*", noSELinux},
	{NoEffect, "seLinuxChangePolicy", "volumes are not labelled for SELinux"},
	{Refused, "windowsOptions.*", notWindows},
}}
