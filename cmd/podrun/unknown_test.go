package main

import "testing"

// Who types a verb of docker's or kubectl's that has another name here, or is
// below another, is told where it is.
func TestUnknownCommandNamesTheRightOne(t *testing.T) {
	for name, want := range map[string]string{
		"history": `unknown command "history"; did you mean "image history"?`,
		"import":  `unknown command "import"; did you mean "image import"?`,
		"inspect": `unknown command "inspect"; did you mean "image inspect" or "network inspect"?`,
		"df":      `unknown command "df"; did you mean "system df"?`,
		"imagse":  `unknown command "imagse"; did you mean "image"?`,
		"rm":      `unknown command "rm"; did you mean "delete"?`,
		"kill":    `unknown command "kill"; did you mean "stop"?`,
		"restart": `unknown command "restart"; did you mean "stop"?`,
		"stats":   `unknown command "stats"; did you mean "top"?`,
		"edit":    `unknown command "edit"; did you mean "replace"?`,
		"search":  `unknown command "search"`,
	} {
		if err := unknownCommand((&cli{}).root(), name); err.Error() != want {
			t.Errorf("%s: got %q, want %q", name, err, want)
		}
	}
	image, _, err := (&cli{}).root().Find([]string{"image"})
	if err != nil {
		t.Fatal(err)
	}
	if err := unknownCommand(image, "exists"); err.Error() != `unknown command "exists"` {
		t.Errorf("below image: %q", err)
	}
}
