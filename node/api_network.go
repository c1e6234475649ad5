package node

import (
	"context"
	"net/http"
)

func (a *api) listNetworks(w http.ResponseWriter, _ *http.Request) error {
	list, err := a.network.Networks()
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, list)
	return nil
}

func (a *api) checkNetwork(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := a.during(r)
	defer cancel()
	if err := a.supervisor.CheckNetwork(ctx, r.PathValue("namespace"), r.PathValue("name")); err != nil {
		return err
	}
	respond(w, http.StatusOK, struct{}{})
	return nil
}

// Networks lists the networks that pods may be joined to, the built-in one
// first.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	var list []Network
	err := c.call(ctx, http.MethodGet, "/podrun/v1/networks", nil, nil, &list)
	return list, err
}

// CheckNetwork asks the plugins of a pod's network whether what they made for
// it is as it was; an error says what is not.
func (c *Client) CheckNetwork(ctx context.Context, namespace, name string) error {
	return c.call(ctx, http.MethodPost, podrunPath(namespace, name, "check-network"), nil, nil, nil)
}
