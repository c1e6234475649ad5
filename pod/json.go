package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxDepth is how deep the values of a JSON document may be nested. A pod
// needs about 12 levels.
const maxDepth = 200

var errTooDeep = fmt.Errorf("values are nested more than %d deep", maxDepth)

// startsAsJSON tells whether the first thing in a manifest opens an object,
// in JSON or in YAML's flow style.
func startsAsJSON(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, "\ufeff \t\r\n"), []byte("{"))
}

// readJSON reads the JSON values of a manifest, one after the other, as YAML
// nodes. YAML would read most of JSON itself, but neither several values
// without separators nor surrogate pairs ("\ud83d\ude00").
func readJSON(data []byte) ([]*yaml.Node, *syntaxError) {
	r := &jsonReader{data: data, d: json.NewDecoder(bytes.NewReader(data))}
	r.d.UseNumber()
	var documents []*yaml.Node
	for {
		n, err := r.value(0)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, r.failure(err)
		}
		documents = append(documents, n)
	}
}

type jsonReader struct {
	data []byte
	d    *json.Decoder

	seen         int // bytes that line and column count
	line, column int // from 0
}

// value reads the next value; io.EOF when there is none.
func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	at := r.next()
	token, err := r.d.Token()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: at.Line, Column: at.Column}
	switch v := token.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if v == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.d.More() {
			item, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		if _, err := r.d.Token(); err != nil { // the closing bracket
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(v)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}

// next is the place of the next token.
func (r *jsonReader) next() Position {
	offset := int(r.d.InputOffset())
	for offset < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[offset]) >= 0 {
		offset++
	}
	return r.place(offset)
}

// place turns an offset into a position. Offsets must not decrease.
func (r *jsonReader) place(offset int) Position {
	offset = min(max(offset, r.seen), len(r.data))
	between := r.data[r.seen:offset]
	if newlines := bytes.Count(between, []byte("\n")); newlines > 0 {
		r.line += newlines
		r.column = 0
		between = between[bytes.LastIndexByte(between, '\n')+1:]
	}
	r.column += utf8.RuneCount(between)
	r.seen = offset
	return Position{r.line + 1, r.column + 1}
}

// failure places what the decoder complains about.
func (r *jsonReader) failure(err error) *syntaxError {
	offset := int(r.d.InputOffset())
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		offset = int(syntax.Offset) - 1
	case errors.Is(err, io.ErrUnexpectedEOF):
		offset, err = len(r.data), errors.New("unexpected end of the JSON text")
	}
	return &syntaxError{Position: r.place(offset), msg: err.Error()}
}
