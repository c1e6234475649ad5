package pod

var volumeFields = section{"Volumes", "spec.volumes.", []rule{
	{Supported, "name", ""},
	{Supported, "emptyDir.{medium,sizeLimit}", "on disk, or `Memory`; not `HugePages`"},
	{Refused, "emptyDir.mode", alpha},
	{Supported, "hostPath.{path,type}", ""},
	{Supported, "configMap.{name,optional,defaultMode,items.{key,path,mode}}", "follows the object while the pod runs"},
	{Supported, "secret.{secretName,optional,defaultMode,items.{key,path,mode}}", "follows the object while the pod runs"},
	{Supported, "downwardAPI.{defaultMode,items.{path,mode}}", "follows the pod"},
	{Supported, "downwardAPI.items.fieldRef.{apiVersion,fieldPath}", ""},
	{Supported, "downwardAPI.items.resourceFieldRef.{containerName,resource,divisor}", ""},
	{Refused, "{configMap,secret,downwardAPI}.{defaultUser,items.user}", alpha},
	{Supported, "persistentVolumeClaim.{claimName,readOnly}", "a directory on this node"},
	{Supported, "image.{reference,pullPolicy}", "read-only"},
}}

var projectedFields = section{"Projected volumes", "spec.volumes.projected.", []rule{
	{Supported, "defaultMode", ""},
	{Supported, "sources.{configMap,secret}.{name,optional,items.{key,path,mode}}", "follows the object while the pod runs"},
	{Supported, "sources.downwardAPI.items.{path,mode}", "follows the pod"},
	{Supported, "sources.downwardAPI.items.fieldRef.{apiVersion,fieldPath}", ""},
	{Supported, "sources.downwardAPI.items.resourceFieldRef.{containerName,resource,divisor}", ""},
	{Refused, "{defaultUser,sources.{configMap,secret,downwardAPI}.items.user}", alpha},
	{Refused, "sources.{serviceAccountToken,clusterTrustBundle,podCertificate}.*", "there is no API server to issue it"},
}}

var otherVolumeFields = section{"Other volumes", "spec.volumes.", []rule{
	{Refused, "{nfs,iscsi,fc}.*", "podrun mounts no network storage; mount it on the host and use hostPath"},
	{Refused, "{cephfs,rbd,glusterfs,quobyte,storageos,scaleIO,portworxVolume,flocker}.*",
		"podrun mounts no network storage; mount it on the host and use hostPath"},
	{Refused, "{awsElasticBlockStore,azureDisk,azureFile,cinder,gcePersistentDisk,photonPersistentDisk,vsphereVolume}.*",
		"podrun attaches no disks of a cloud; mount it on the host and use hostPath"},
	{Refused, "{csi,flexVolume}.*", "podrun runs no volume drivers; mount it on the host and use hostPath"},
	{Refused, "gitRepo.*", "Kubernetes has removed it; clone the repository in an init container, into an emptyDir"},
	{Refused, "ephemeral.*", "podrun makes no claims of its own; use emptyDir or persistentVolumeClaim"},
}}
