package image

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"get.podrun.dev/podrun/internal/hint"
)

// certs are a registry's TLS settings: the directory that is named after its
// host and port, as containers-certs.d(5) and docker have it.
type certs struct {
	dir   string            // "" when there is none
	files map[string][]byte // .crt, .cert and .key, by name
	sum   string            // of the names and what is in them
}

// certDirectories are where a registry's directory is looked for; the first
// that has it is used alone.
func certDirectories() []string {
	var list []string
	if dir, err := os.UserConfigDir(); err == nil {
		list = append(list, filepath.Join(dir, "containers", "certs.d"))
	}
	return append(list, "/etc/containers/certs.d", "/etc/docker/certs.d")
}

// loadCerts reads the certificates for a registry. None is no error.
func loadCerts(registry string) (*certs, error) {
	for _, parent := range certDirectories() {
		dir := filepath.Join(parent, registry)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && parent != certDirectories()[0] {
			continue // docker's may be for root alone
		}
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		c := &certs{dir: dir, files: map[string][]byte{}}
		hash := sha256.New()
		for _, e := range entries { // sorted
			if ext := filepath.Ext(e.Name()); ext != ".crt" && ext != ".cert" && ext != ".key" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("certificates: %w", err)
			}
			c.files[e.Name()] = data
			fmt.Fprintf(hash, "%s %d\n%s", e.Name(), len(data), data)
		}
		c.sum = string(hash.Sum(nil))
		return c, nil
	}
	return &certs{}, nil
}

// config makes TLS settings of the certificates. A client certificate and its
// key have one name, ending with .cert and .key.
func (c *certs) config(insecure bool) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: insecure, MinVersion: tls.VersionTLS12}
	names := make([]string, 0, len(c.files))
	for name := range c.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join(c.dir, name)
		switch stem, ext := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name); ext {
		case ".crt":
			if config.RootCAs == nil {
				var err error
				if config.RootCAs, err = x509.SystemCertPool(); err != nil {
					config.RootCAs = x509.NewCertPool()
				}
			}
			if !config.RootCAs.AppendCertsFromPEM(c.files[name]) {
				return nil, fmt.Errorf("certificates: %s has no certificate in PEM form", path)
			}
		case ".cert":
			key, ok := c.files[stem+".key"]
			if !ok {
				return nil, hint.Wrap(fmt.Errorf("certificates: %s has no key: there is no %s.key beside it", path, stem), "add the key; an authority's certificate ends with .crt")
			}
			pair, err := tls.X509KeyPair(c.files[name], key)
			if err != nil {
				return nil, fmt.Errorf("certificates: %s and its key: %w", path, err)
			}
			config.Certificates = append(config.Certificates, pair)
		case ".key":
			if _, ok := c.files[stem+".cert"]; !ok {
				return nil, hint.Wrap(fmt.Errorf("certificates: %s has no certificate: there is no %s.cert beside it", path, stem), "add the certificate, or remove the key")
			}
		}
	}
	return config, nil
}
