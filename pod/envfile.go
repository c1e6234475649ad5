package pod

import (
	"fmt"
	"io"
	"strings"
)

// maxEnvFile bounds what is read of an environment file, which a container
// wrote.
const maxEnvFile = 1 << 20

// envFileValue returns the value of key in an environment file, "" when it is
// not there (https://kep.k8s.io/3721). The syntax is a part of a shell's:
//
//	# a comment
//	NAME='value'   # all between the quotes is the value, ends of lines too
//	NAME=          # would be empty, and is refused: a value has quotes
//	NAME= 'value'  # empty, as in a shell
//
// The first assignment of a name counts, and what comes after it is not read.
func envFileValue(r io.Reader, key string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxEnvFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxEnvFile {
		return "", fmt.Errorf("the file is larger than %d bytes", maxEnvFile)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		bad := func(what string) error {
			return fmt.Errorf("invalid environment variable format at line %d: %s", number, what)
		}
		line := strings.TrimLeft(strings.TrimSuffix(lines[i], "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", bad("missing '='")
		case strings.TrimRight(name, " \t") == "":
			return "", bad("empty variable name")
		case strings.TrimRight(name, " \t") != name:
			return "", bad("whitespace before '=' is not allowed")
		case value != strings.TrimLeft(value, " \t"):
			if name == key {
				return "", nil
			}
			continue
		case !strings.HasPrefix(value, "'"):
			return "", bad("value must be enclosed in single quotes")
		}
		value, rest, closed := strings.Cut(value[1:], "'")
		parts := []string{value}
		for !closed {
			if i++; i == len(lines) {
				return "", bad("unclosed single quote")
			}
			var part string
			part, rest, closed = strings.Cut(strings.TrimSuffix(lines[i], "\r"), "'")
			parts = append(parts, part)
		}
		value = strings.Join(parts, "\n")
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
			number = i + 1
			return "", bad("unexpected content after closing quote")
		}
		if name == key {
			return value, nil
		}
	}
	return "", nil
}
