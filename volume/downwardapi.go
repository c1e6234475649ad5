package volume

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// addDownwardAPI adds files that show fields of the pod and what its
// containers may use.
func (f files) addDownwardAPI(items []corev1.DownwardAPIVolumeFile, mode uint32, from Sources) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = from.Field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = from.Resource(item.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		m := mode
		if item.Mode != nil {
			m = uint32(*item.Mode)
		}
		f[filepath.Clean(item.Path)] = file{[]byte(value), m}
	}
	return nil
}
