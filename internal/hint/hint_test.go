package hint_test

import (
	"errors"
	"fmt"
	"testing"

	"get.podrun.dev/podrun/internal/hint"
)

func TestOutermostMendWins(t *testing.T) {
	base := errors.New("no such file")
	err := fmt.Errorf("open: %w", hint.Wrap(base, "make it"))
	if got := hint.Of(err); got != "make it" {
		t.Errorf("Of = %q, want %q", got, "make it")
	}
	err = hint.Wrap(err, "look elsewhere")
	if got := hint.Of(err); got != "look elsewhere" {
		t.Errorf("Of = %q, want the outer mend", got)
	}
	if !errors.Is(err, base) {
		t.Error("a hinted error no longer matches its cause")
	}
	if got, want := err.Error(), "open: no such file"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestNothingToMend(t *testing.T) {
	if hint.Wrap(nil, "x") != nil {
		t.Error("Wrap(nil) is not nil")
	}
	if got := hint.Of(errors.New("plain")); got != "" {
		t.Errorf("Of(plain) = %q, want none", got)
	}
}
