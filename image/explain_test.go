package image

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/hint"
)

// A registry that speaks HTTP is not asked so unless a person says that it may.
func TestExplainPlainRegistry(t *testing.T) {
	err := explain(fmt.Errorf("ping: %w", http.ErrSchemeMismatch), endpoint{registry: "reg.example:5000"})
	if !strings.Contains(err.Error(), "registry reg.example:5000") || !strings.Contains(hint.Of(err), `insecure = true`) {
		t.Errorf("%v; %s", err, hint.Of(err))
	}
}
