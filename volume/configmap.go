package volume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// addConfigMap adds the keys of a ConfigMap. An optional one that is not there
// adds nothing.
func (f files) addConfigMap(name string, items []corev1.KeyToPath, optional *bool, mode uint32, from Sources) error {
	o, err := from.ConfigMap(name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return err
	}
	data := make(map[string][]byte, len(o.Data)+len(o.BinaryData))
	for key, value := range o.Data {
		data[key] = []byte(value)
	}
	for key, value := range o.BinaryData {
		data[key] = value
	}
	return f.addItems(data, items, optional, mode, func(key string) error {
		return fmt.Errorf("configmap references non-existent config key: %s", key)
	})
}
