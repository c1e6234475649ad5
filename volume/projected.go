package volume

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// addProjected adds what several sources show in one directory. The error
// joins those of all sources.
func (f files) addProjected(v *corev1.ProjectedVolumeSource, from Sources) error {
	mode := modeOr(v.DefaultMode)
	var errs []error
	for _, s := range v.Sources {
		switch {
		case s.ConfigMap != nil:
			errs = append(errs, f.addConfigMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, mode, from))
		case s.Secret != nil:
			errs = append(errs, f.addSecret(s.Secret.Name, s.Secret.Items, s.Secret.Optional, mode, from))
		case s.DownwardAPI != nil:
			errs = append(errs, f.addDownwardAPI(s.DownwardAPI.Items, mode, from))
		default:
			errs = append(errs, errors.New("this kind of projected source is not supported"))
		}
	}
	return errors.Join(errs...)
}
