package supervisor

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The table in docs/states.md is the table in the code.
func TestStatesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[State][]State{}
	table, _, _ := strings.Cut(string(text), "\n## ")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 5 || strings.HasPrefix(cells[1], "--") || strings.TrimSpace(cells[1]) == "state" {
			continue
		}
		var to []State
		for name := range strings.SplitSeq(cells[3], ",") {
			if name = strings.TrimSpace(name); name != "" {
				to = append(to, State(name))
			}
		}
		documented[State(strings.TrimSpace(cells[1]))] = to
	}
	for state, to := range moves {
		if got, ok := documented[state]; !ok || !slices.Equal(got, to) {
			t.Errorf("docs/states.md moves %s to %v, the code to %v", state, got, to)
		}
	}
	for state := range documented {
		if _, ok := moves[state]; !ok {
			t.Errorf("docs/states.md has state %s, the code has not", state)
		}
	}
}

func TestRefusedMoveNamesBothStates(t *testing.T) {
	_, err := Finished.move(Running)
	if err == nil || !strings.Contains(err.Error(), "Finished") || !strings.Contains(err.Error(), "Running") {
		t.Errorf("move from Finished to Running: %v, want a refusal that names both", err)
	}
	if to, err := Starting.move(Running); err != nil || to != Running {
		t.Errorf("move from Starting to Running = %s, %v", to, err)
	}
}
