package supervisor

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
)

// pullCredentials are those of the pod's imagePullSecrets, read anew for each
// pull. What is not there or cannot be read is told and left out: the image may
// not need it. field is of the container that the pull is for.
func (w *worker) pullCredentials(p *corev1.Pod, field string) []image.Credentials {
	if len(p.Spec.ImagePullSecrets) == 0 {
		return nil
	}
	var found []image.Credentials
	var missing []string
	sources := objects{s: w.s, pod: p}
	for _, reference := range p.Spec.ImagePullSecrets {
		secret, err := sources.Secret(reference.Name)
		if err != nil {
			missing = append(missing, reference.Name)
			continue
		}
		c, err := credentialsOf(secret)
		if err != nil {
			w.warn("FailedToRetrieveImagePullSecret", field, fmt.Sprintf("Unable to read image pull secret %s: %v", reference.Name, err))
			continue
		}
		found = append(found, c)
	}
	if len(missing) > 0 {
		w.warn("FailedToRetrieveImagePullSecret", field,
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	return found
}

// credentialsOf reads a Secret that is made for pulling images.
func credentialsOf(s *corev1.Secret) (image.Credentials, error) {
	if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok && s.Type == corev1.SecretTypeDockerConfigJson {
		return image.ParseDockerConfig(data)
	}
	if data, ok := s.Data[corev1.DockerConfigKey]; ok && s.Type == corev1.SecretTypeDockercfg {
		return image.ParseDockercfg(data)
	}
	return nil, fmt.Errorf("its type is %q, not %q or %q", s.Type, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg)
}
