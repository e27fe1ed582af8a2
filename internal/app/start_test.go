package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

func TestADirectoryThatIsRefusedIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // a directory that others read is what is refused
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "holiday.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := app.Default()
	config.DataDir, config.Listen = dir, []string{"127.0.0.1:0"}
	s, err := app.Start(t.Context(), config, &app.StartOptions{Embedded: true})
	if s != nil {
		s.Close()
	}
	if sentence, _ := fault.Sentence(err); fault.Of(err) != fault.Invalid || !strings.Contains(sentence, "holiday.jpg") {
		t.Errorf("got %v, want a refusal that names what is in the way", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("got %v in the directory, want what was in it and no more", entries)
	}
}
