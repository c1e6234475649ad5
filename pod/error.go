package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Error is one complaint about a manifest.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 when the place is not known
	Field        string // spec.containers[0].image; "" for the document
	Msg          string // what is wrong
	Mend         string // what to do; "" when Msg says it all
}

// Error is the complaint on one line: FILE:LINE:COLUMN: FIELD: MESSAGE; MEND.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Msg)
	if e.Mend != "" {
		b.WriteString("; " + e.Mend)
	}
	return b.String()
}

// Errors are all complaints about a manifest, in the order of their places.
type Errors []*Error

// Error is one line for each complaint.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, c := range e {
		lines[i] = c.Error()
	}
	return strings.Join(lines, "\n")
}

// orNil sorts the complaints; none is no error.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Field+a.Msg, b.Field+b.Msg)
	})
	return e
}

// Position is a place in a file, counted from 1.
type Position struct{ Line, Column int }

// Object is one object of a manifest.
type Object struct {
	Kind, APIVersion string
	File             string
	Positions        map[string]Position // of fields, by path; "" is the object
	Value            Value
	Pod              *corev1.Pod // Value, if it is one
}

// Locate gives complaints about the object their places: that of the field,
// or of the nearest thing around it that the manifest has.
func (o *Object) Locate(list field.ErrorList) error {
	var out Errors
	for _, e := range list {
		out = append(out, o.Complain(e.Field, shorten(e).ErrorBody()))
	}
	return out.orNil()
}

// Complain makes a complaint about one field of the object.
func (o *Object) Complain(path, msg string) *Error {
	at := path
	for {
		if p, ok := o.Positions[at]; ok {
			return &Error{File: o.File, Line: p.Line, Column: p.Column, Field: path, Msg: msg}
		}
		if at == "" {
			return &Error{File: o.File, Field: path, Msg: msg}
		}
		cut := max(strings.LastIndexByte(at, '.'), strings.LastIndexByte(at, '['), 0)
		at = at[:cut]
	}
}

// maxShown is how many bytes of a wrong value are shown.
const maxShown = 1000

// shorten cuts the value that e complains about to what a person reads.
func shorten(e *field.Error) *field.Error {
	text, ok := e.BadValue.(string)
	if !ok || len(text) <= maxShown {
		return e
	}
	short := *e
	short.BadValue = strings.ToValidUTF8(text[:maxShown], "") + fmt.Sprintf("... (%d bytes)", len(text))
	return &short
}
