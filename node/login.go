package node

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/image"
)

// LoginRequest asks whether a registry takes a user and a password. The node
// asks, because its pulls will: with its certificates and its proxies.
type LoginRequest struct {
	Registry string `json:"registry"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// Login tells whether a registry takes a user and a password.
func (c *Client) Login(ctx context.Context, r LoginRequest) error {
	return c.call(ctx, http.MethodPost, "/podrun/v1/login", nil, r, nil)
}

func (a *api) login(w http.ResponseWriter, r *http.Request) error {
	var request LoginRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	if request.Registry == "" || request.User == "" {
		return apierrors.NewBadRequest("login needs a registry and a user")
	}
	ctx, cancel := a.during(r)
	defer cancel()
	if err := a.images.Login(ctx, request.Registry, request.User, request.Password); err != nil {
		return err
	}
	respond(w, http.StatusOK, struct{}{})
	return nil
}

// Credentials are those of a file that a person names.
type Credentials = image.Credentials

// What a user's credential files hold is the command line's to change: they are
// found by its environment.
var (
	// ReadCredentials reads a file of credentials.
	ReadCredentials = image.ReadCredentials
	// StoredLogin returns what is stored for a registry.
	StoredLogin = image.StoredLogin
	// SaveLogin stores credentials and tells where.
	SaveLogin = image.SaveLogin
	// RemoveLogin removes what is stored for a registry.
	RemoveLogin = image.RemoveLogin
)
