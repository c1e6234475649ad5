package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"get.podrun.dev/podrun/node"
)

// dockerHub is the registry of names that have none.
const dockerHub = "docker.io"

type loginOptions struct {
	user, password, file string
	stdin, get           bool
}

func loginCommand(c *cli) *cobra.Command {
	var o loginOptions
	command := &cobra.Command{
		Use:   "login [-u USER] [--password-stdin] [REGISTRY]",
		Short: "Store credentials for a registry",
		Long: `Ask a registry whether it takes a user name and a password, and store them where
docker and podman find them too: in docker's config.json, or in the file that has
credentials for the registry already. A credential helper that the file names
(credsStore, credHelpers) keeps them instead. Without REGISTRY it is docker.io.`,
		Example: `  podrun login registry.example:5000
  podrun login -u me --password-stdin registry.example:5000 <password.txt`,
		Args: cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			registry, err := registryOf(args, "login")
			if err != nil {
				return err
			}
			if o.stdin && o.password != "" {
				return usagef("--password and --password-stdin exclude each other")
			}
			if o.stdin && o.user == "" {
				return usagef("--password-stdin needs --username")
			}
			if o.get {
				return c.getLogin(command.Context(), registry, o.file)
			}
			return c.login(command.Context(), registry, &o)
		},
	}
	f := command.Flags()
	f.StringVarP(&o.user, "username", "u", "", "the user")
	f.StringVarP(&o.password, "password", "p", "", "the password, which other users may see on the command line")
	f.BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&o.get, "get-login", false, "print the user who is logged in")
	f.StringVar(&o.file, "authfile", "", "the file to store the credentials in")
	return command
}

func logoutCommand(c *cli) *cobra.Command {
	var all bool
	var file string
	command := &cobra.Command{
		Use:     "logout [-a | REGISTRY]",
		Short:   "Remove the credentials for a registry",
		Long:    "Remove the credentials for a registry from all files where podrun, docker and podman look\nfor them. Without REGISTRY it is docker.io.",
		Example: "  podrun logout registry.example:5000",
		Args:    cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			registry, err := registryOf(args, "logout")
			if err != nil {
				return err
			}
			if all && len(args) > 0 {
				return usagef("--all and a registry exclude each other")
			}
			return c.logout(command.Context(), registry, file, all)
		},
	}
	command.Flags().BoolVarP(&all, "all", "a", false, "of all registries")
	command.Flags().StringVar(&file, "authfile", "", "the only file to remove them from")
	return command
}

// registryOf is the registry that arguments name: HOST[:PORT], which may be a
// URL as people copy it.
func registryOf(args []string, verb string) (string, error) {
	switch len(args) {
	case 0:
		return dockerHub, nil
	case 1:
	default:
		return "", usagef("%s takes one registry, got %d", verb, len(args))
	}
	registry := args[0]
	if scheme, rest, ok := strings.Cut(registry, "://"); ok && (scheme == "http" || scheme == "https") {
		registry, _, _ = strings.Cut(rest, "/")
	}
	registry = strings.TrimSuffix(registry, "/")
	if registry == "index.docker.io" || registry == "registry-1.docker.io" {
		registry = dockerHub
	}
	full, err := node.ImageName(registry + "/x")
	if err != nil || !strings.HasPrefix(full, registry+"/") {
		return "", usagef("%q is not a registry: it is a host, and may have a port", args[0])
	}
	return registry, nil
}

func (c *cli) getLogin(ctx context.Context, registry, file string) error {
	user, _, err := node.StoredLogin(ctx, file, registry)
	if err != nil {
		return fmt.Errorf("cannot look up the login of %s: %w", registry, err)
	}
	if user == "" {
		return fmt.Errorf("not logged in to %s", registry)
	}
	fmt.Fprintln(c.out, user)
	return nil
}

func (c *cli) login(ctx context.Context, registry string, o *loginOptions) error {
	failed := func(err error) error { return fmt.Errorf("cannot log in to %s: %w", registry, cause(err)) }
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	user, password := o.user, o.password
	if user == "" && password == "" && !o.stdin {
		user, password, err = node.StoredLogin(ctx, o.file, registry)
		if err != nil {
			return failed(err)
		}
		if user != "" && password != "" {
			fmt.Fprintf(c.out, "Authenticating with existing credentials for %s\n", registry)
			if client.Login(ctx, node.LoginRequest{Registry: registry, User: user, Password: password}) == nil {
				fmt.Fprintln(c.out, "Login Succeeded")
				return nil
			}
			fmt.Fprintln(c.out, "They are not valid any more")
			user, password = "", ""
		}
	}
	if user, password, err = c.askLogin(user, password, o.stdin); err != nil {
		return failed(err)
	}
	if err := client.Login(ctx, node.LoginRequest{Registry: registry, User: user, Password: password}); err != nil {
		return failed(err)
	}
	where, helper, err := node.SaveLogin(ctx, o.file, registry, user, password)
	if err != nil {
		return failed(err)
	}
	if o.password != "" {
		fmt.Fprintln(c.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if helper == "" {
		fmt.Fprintf(c.err, "WARNING! Your credentials are stored unencrypted in '%s'.\n", where)
	}
	fmt.Fprintln(c.out, "Login Succeeded")
	return nil
}

// maxPassword bounds what is read of standard input: tokens have some thousand
// bytes.
const maxPassword = 64 << 10

// askLogin completes a user and a password from standard input: as it is, or by
// asking at a terminal.
func (c *cli) askLogin(user, password string, stdin bool) (string, string, error) {
	if stdin {
		data, err := io.ReadAll(io.LimitReader(c.in, maxPassword))
		if err != nil {
			return "", "", err
		}
		password = strings.TrimRight(string(data), "\r\n")
		if password == "" {
			return "", "", errors.New("standard input has no password")
		}
		return user, password, nil
	}
	if user != "" && password != "" {
		return user, password, nil
	}
	if !isTerminal(c.in) {
		return "", "", usagef("login needs --username and --password-stdin where it cannot ask at a terminal")
	}
	if user == "" {
		fmt.Fprint(c.err, "Username: ")
		line, err := bufio.NewReader(c.in).ReadString('\n')
		if err != nil {
			return "", "", err
		}
		user = strings.TrimSpace(line)
	}
	if password == "" {
		fmt.Fprint(c.err, "Password: ")
		data, err := term.ReadPassword(int(c.in.Fd()))
		fmt.Fprintln(c.err)
		if err != nil {
			return "", "", err
		}
		password = string(data)
	}
	if user == "" || password == "" {
		return "", "", errors.New("a user name and a password are needed")
	}
	return user, password, nil
}

func (c *cli) logout(ctx context.Context, registry, file string, all bool) error {
	if all {
		if _, err := node.RemoveLogin(ctx, file, ""); err != nil {
			return fmt.Errorf("cannot log out: %w", err)
		}
		fmt.Fprintln(c.out, "Removed login credentials for all registries")
		return nil
	}
	removed, err := node.RemoveLogin(ctx, file, registry)
	switch {
	case err != nil:
		return fmt.Errorf("cannot log out from %s: %w", registry, err)
	case removed:
		fmt.Fprintf(c.out, "Removing login credentials for %s\n", registry)
	default:
		fmt.Fprintf(c.out, "Not logged in to %s\n", registry)
	}
	return nil
}
