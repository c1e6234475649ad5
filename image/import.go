package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"get.podrun.dev/podrun/internal/fault"
)

// ImportOptions of Import.
type ImportOptions struct {
	Ref     *Reference // nil: no name
	Changes []string   // lines of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
	Message string
}

// Import makes an image of one layer of a tar archive of a root filesystem,
// compressed or not. It reads all of r.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (img *Image, err error) {
	config := &v1.ConfigFile{OS: s.platform.OS, Architecture: s.platform.Architecture, Variant: s.platform.Variant}
	for _, line := range o.Changes {
		if err := change(&config.Config, line); err != nil {
			return nil, err
		}
	}
	defer s.hold()()
	defer s.sweepAfter(&err)
	defer func() { err = explainDisk(err) }()
	blob, diffID, err := s.compress(ctx, r)
	if err != nil {
		return nil, err
	}
	content, err := s.openBlob(blob.Digest)
	if err != nil {
		return nil, err
	}
	made, err := s.ensureLayer(ctx, content, diffID)
	if err := errors.Join(err, content.Close()); err != nil {
		return nil, err
	}
	now := v1.Time{Time: time.Now().UTC()}
	hash, err := v1.NewHash(string(diffID))
	if err != nil {
		return nil, err
	}
	config.Created = now
	config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hash}}
	config.History = []v1.History{{Created: now, Comment: o.Message}}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	manifest, err := newManifest(raw, []Blob{blob})
	if err != nil {
		return nil, err
	}
	var names []Reference
	if o.Ref != nil {
		names = append(names, *o.Ref)
	}
	return s.addOwn(config, raw, manifest, []int64{made.Size}, names)
}

// compress keeps a tar archive as a layer's blob, and returns its diff ID.
func (s *Store) compress(ctx context.Context, r io.Reader) (blob Blob, diffID Digest, err error) {
	plain, err := decompress(r)
	if err != nil {
		return Blob{}, "", err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	kept, err := s.newBlob(true)
	if err != nil {
		return Blob{}, "", err
	}
	defer func() { err = errors.Join(err, kept.abort()) }()
	z, hash := newCompressor(kept), sha256.New()
	_, err = io.Copy(io.MultiWriter(z, hash), until(ctx, plain))
	if err == nil {
		err = ctx.Err() // the end may be that of who sent it
	}
	if err != nil {
		return Blob{}, "", fmt.Errorf("archive: %w", err)
	}
	if err := z.Close(); err != nil {
		return Blob{}, "", err
	}
	blob = Blob{Digest: kept.digest(), Size: kept.size, MediaType: string(types.OCILayer)}
	err = errors.Join(kept.commit(blob.Digest, true), fault.Point("load.layer"))
	return blob, Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))), err
}

// until is r until ctx ends.
func until(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// change applies a line of a Dockerfile to a config
// (https://docs.docker.com/reference/cli/docker/image/import/#change).
func change(c *v1.Config, line string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	if before, after, ok := strings.Cut(word, "="); ok && rest == "" { // CMD=...
		word, rest = before, after
	}
	if rest == "" {
		return fmt.Errorf("change %q has no value", line)
	}
	switch word = strings.ToUpper(word); word {
	case "CMD":
		c.Cmd = commandOf(rest)
	case "ENTRYPOINT":
		c.Entrypoint = commandOf(rest)
	case "ENV", "LABEL":
		pairs, err := pairsOf(rest)
		if err != nil {
			return fmt.Errorf("change %q: %w", line, err)
		}
		for _, p := range pairs {
			if word == "ENV" {
				c.Env = setEnv(c.Env, p[0], p[1])
				continue
			}
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[p[0]] = p[1]
		}
	case "EXPOSE":
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for _, port := range strings.Fields(rest) {
			if !strings.Contains(port, "/") {
				port += "/tcp"
			}
			c.ExposedPorts[port] = struct{}{}
		}
	case "VOLUME":
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		list, ok := jsonList(rest)
		if !ok {
			list = strings.Fields(rest)
		}
		for _, v := range list {
			c.Volumes[v] = struct{}{}
		}
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "USER":
		c.User = rest
	case "WORKDIR":
		c.WorkingDir = rest
	default:
		return fmt.Errorf("change %q: podrun knows CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR", line)
	}
	return nil
}

// commandOf is a command in JSON's form, or in the shell's.
func commandOf(text string) []string {
	if list, ok := jsonList(text); ok {
		return list
	}
	return []string{"/bin/sh", "-c", text}
}

func jsonList(text string) (list []string, ok bool) {
	return list, strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &list) == nil
}

// pairsOf reads NAME=VALUE..., where quotes hold spaces together, or the old
// NAME VALUE.
func pairsOf(text string) ([][2]string, error) {
	name, value, _ := strings.Cut(text, " ")
	if !strings.Contains(name, "=") {
		if value == "" {
			return nil, errors.New("want NAME=VALUE")
		}
		return [][2]string{{name, strings.TrimSpace(value)}}, nil
	}
	words, err := words(text)
	if err != nil {
		return nil, err
	}
	var pairs [][2]string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", w)
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

// words splits at spaces outside of quotes and takes the quotes away.
func words(text string) (list []string, err error) {
	var b strings.Builder
	var quote rune
	escaped, inside := false, false
	for _, r := range text {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inside = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inside = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if inside {
				list = append(list, b.String())
			}
			b.Reset()
			inside = false
		default:
			b.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed in %q", text)
	}
	if inside {
		list = append(list, b.String())
	}
	return list, nil
}

func setEnv(env []string, name, value string) []string {
	for i, e := range env {
		if strings.HasPrefix(e, name+"=") {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}
