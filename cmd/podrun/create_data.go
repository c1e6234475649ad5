package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// dataFlags are where the keys and values of a ConfigMap or Secret come from.
type dataFlags struct{ literals, files, envFiles []string }

func (f *dataFlags) declare(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVar(&f.literals, "from-literal", nil, "KEY=VALUE")
	flags.StringSliceVar(&f.files, "from-file", nil, "[KEY=]FILE, or a directory with the files to take; a key is the name of its file unless given")
	flags.StringSliceVar(&f.envFiles, "from-env-file", nil, "a file of KEY=VALUE lines")
}

// read returns the data that the flags name.
func (f *dataFlags) read() (map[string][]byte, error) {
	if len(f.envFiles) > 0 && len(f.literals)+len(f.files) > 0 {
		return nil, plainf("from-env-file cannot be combined with from-file or from-literal")
	}
	data := map[string][]byte{}
	add := func(key string, value []byte) error {
		if problems := validation.IsConfigMapKey(key); len(problems) > 0 {
			return plainf("%q is not a valid key name: %s", key, strings.Join(problems, ","))
		}
		if _, twice := data[key]; twice {
			return plainf("cannot add key %q, another key by that name already exists", key)
		}
		data[key] = value
		return nil
	}
	for _, source := range f.files {
		if err := addFile(source, add); err != nil {
			return nil, err
		}
	}
	for _, literal := range f.literals {
		key, value, ok := strings.Cut(literal, "=")
		if !ok || key == "" {
			return nil, plainf("invalid literal source %v, expected key=value", key)
		}
		if err := add(key, []byte(value)); err != nil {
			return nil, err
		}
	}
	for _, path := range f.envFiles {
		if err := addEnvFile(path, add); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// addFile adds [KEY=]FILE, or the regular files of a directory.
func addFile(source string, add func(string, []byte) error) error {
	key, path, hasKey := strings.Cut(source, "=")
	if !hasKey {
		path, key = source, filepath.Base(source)
	}
	if path == "" || key == "" || strings.Contains(path, "=") {
		return plainf("key names or file paths cannot contain '='")
	}
	info, err := os.Stat(path)
	if err != nil {
		return plainf("error reading %s: %s", path, reasonOf(err))
	}
	if !info.IsDir() {
		value, err := readFile(path)
		if err != nil {
			return plainf("error reading %s: %s", path, reasonOf(err))
		}
		return add(key, value)
	}
	if hasKey {
		return plainf("cannot give a key name for a directory path")
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return plainf("error listing files in %s: %s", path, reasonOf(err))
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		value, err := readFile(filepath.Join(path, e.Name()))
		if err != nil {
			return plainf("error reading %s: %s", filepath.Join(path, e.Name()), reasonOf(err))
		}
		if err := add(e.Name(), value); err != nil {
			return err
		}
	}
	return nil
}

// addEnvFile adds the KEY=VALUE lines of a file. A key alone takes its value
// from the environment, if it is there.
func addEnvFile(path string, add func(string, []byte) error) error {
	text, err := readFile(path)
	if err != nil {
		return plainf("error reading %s: %s", path, reasonOf(err))
	}
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	lines.Buffer(nil, maxManifest)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !utf8.ValidString(line) {
			return plainf("env file %s contains invalid utf8 bytes at line %d", path, n)
		}
		key, value, ok := strings.Cut(line, "=")
		if problems := validation.IsEnvVarName(key); len(problems) > 0 {
			return plainf("%q is not a valid key name: %s", key, strings.Join(problems, ";"))
		}
		if !ok {
			if value, ok = os.LookupEnv(key); !ok {
				continue
			}
		}
		if err := add(key, []byte(value)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func createConfigMapCommand(c *cli) *cobra.Command {
	var o createOptions
	var data dataFlags
	command := &cobra.Command{
		Use:     "configmap NAME [--from-file=[KEY=]FILE] [--from-literal=KEY=VALUE] [--from-env-file=FILE]",
		Aliases: []string{"cm"},
		Short:   "Make a configmap of files and values",
		Example: `  podrun create configmap settings --from-file=app.conf --from-literal=level=debug
  podrun create configmap site --from-file=html/`,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := exactName(args)
			if err != nil {
				return err
			}
			values, err := data.read()
			if err != nil {
				return err
			}
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
			for key, value := range values {
				if !utf8.Valid(value) {
					if m.BinaryData == nil {
						m.BinaryData = map[string][]byte{}
					}
					m.BinaryData[key] = value
					continue
				}
				if m.Data == nil {
					m.Data = map[string]string{}
				}
				m.Data[key] = string(value)
			}
			return c.createNamed(command.Context(), m, &o)
		},
	}
	o.declare(command)
	data.declare(command)
	return command
}

func createSecretCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "secret (generic | docker-registry | tls) NAME",
		Short: "Make a secret of files and values",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown kind of secret %q: it is generic, docker-registry or tls", args[0])
			}
			return usagef("the kind of the secret is missing: generic, docker-registry or tls")
		},
	}
	command.AddCommand(createGenericCommand(c), createRegistrySecretCommand(c), createTLSCommand(c))
	return command
}

func createGenericCommand(c *cli) *cobra.Command {
	var o createOptions
	var data dataFlags
	var secretType string
	command := &cobra.Command{
		Use:     "generic NAME [--type=TYPE] [--from-file=[KEY=]FILE] [--from-literal=KEY=VALUE] [--from-env-file=FILE]",
		Short:   "Make a secret of files and values",
		Example: `  podrun create secret generic login --from-file=password.txt --from-literal=user=me`,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := exactName(args)
			if err != nil {
				return err
			}
			values, err := data.read()
			if err != nil {
				return err
			}
			return c.createNamed(command.Context(), secret(name, corev1.SecretType(secretType), values), &o)
		},
	}
	o.declare(command)
	data.declare(command)
	command.Flags().StringVar(&secretType, "type", "", "the type of the secret (default Opaque)")
	return command
}

func secret(name string, t corev1.SecretType, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: t, Data: data}
}

func createRegistrySecretCommand(c *cli) *cobra.Command {
	var o createOptions
	var server, user, password, email string
	var files []string
	command := &cobra.Command{
		Use:     "docker-registry NAME --docker-username=USER --docker-password=PASSWORD [--docker-server=REGISTRY] | --from-file=.dockerconfigjson=FILE",
		Short:   "Make a secret for imagePullSecrets",
		Example: `  podrun create secret docker-registry pull --docker-server=registry.example --docker-username=me --docker-password=...`,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := exactName(args)
			if err != nil {
				return err
			}
			values := map[string][]byte{}
			if len(files) > 0 {
				from := dataFlags{files: files}
				if values, err = from.read(); err != nil {
					return err
				}
			} else {
				if user == "" || password == "" {
					return plainf("either --from-file or the combination of --docker-username, --docker-password and --docker-server is required")
				}
				entry := map[string]string{"username": user, "password": password, "auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
				if email != "" {
					entry["email"] = email
				}
				config, err := json.Marshal(map[string]any{"auths": map[string]any{server: entry}})
				if err != nil {
					return err
				}
				values[corev1.DockerConfigJsonKey] = config
			}
			return c.createNamed(command.Context(), secret(name, corev1.SecretTypeDockerConfigJson, values), &o)
		},
	}
	o.declare(command)
	f := command.Flags()
	f.StringVar(&server, "docker-server", "https://index.docker.io/v1/", "the registry")
	f.StringVar(&user, "docker-username", "", "the user of the registry")
	f.StringVar(&password, "docker-password", "", "the user's password")
	f.StringVar(&email, "docker-email", "", "the user's address")
	f.StringSliceVar(&files, "from-file", nil, "[.dockerconfigjson=]FILE: take the file of docker or podman as it is")
	return command
}

func createTLSCommand(c *cli) *cobra.Command {
	var o createOptions
	var cert, key string
	command := &cobra.Command{
		Use:     "tls NAME --cert=FILE --key=FILE",
		Short:   "Make a secret of a certificate and its key",
		Example: `  podrun create secret tls web --cert=tls.crt --key=tls.key`,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := exactName(args)
			if err != nil {
				return err
			}
			if cert == "" || key == "" {
				return plainf("key and cert must be specified")
			}
			from := dataFlags{files: []string{corev1.TLSCertKey + "=" + cert, corev1.TLSPrivateKeyKey + "=" + key}}
			values, err := from.read()
			if err != nil {
				return err
			}
			return c.createNamed(command.Context(), secret(name, corev1.SecretTypeTLS, values), &o)
		},
	}
	o.declare(command)
	command.Flags().StringVar(&cert, "cert", "", "the file of the certificate, PEM")
	command.Flags().StringVar(&key, "key", "", "the file of its private key, PEM")
	return command
}

// reasonOf is what went wrong with a file whose name is said elsewhere.
func reasonOf(err error) string {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return fmt.Sprint(err)
}
