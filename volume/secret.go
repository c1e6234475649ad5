package volume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// addSecret adds the keys of a Secret. An optional one that is not there adds
// nothing.
func (f files) addSecret(name string, items []corev1.KeyToPath, optional *bool, mode uint32, from Sources) error {
	o, err := from.Secret(name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.addItems(o.Data, items, optional, mode, func(key string) error {
		return fmt.Errorf("references non-existent secret key: %s", key)
	})
}
