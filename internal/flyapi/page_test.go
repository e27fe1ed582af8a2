package flyapi_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestThePageSaysOfEveryEndpointHowFaithfulItIs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/fly-api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| endpoint | served | remarks |")
	table, _, _ = strings.Cut(table, "\n\n")
	served := open(t, nil).service.Patterns()
	var described []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		endpoint := strings.Trim(strings.TrimSpace(cells[1]), "`")
		method, path, _ := strings.Cut(endpoint, " ")
		if rest, ok := strings.CutPrefix(path, "M"); ok {
			path = "/v1/apps/{app}/machines/{id}" + rest
		}
		described = append(described, method+" "+path)
		if how := strings.TrimSpace(cells[2]); !slices.Contains([]string{"whole", "part", "no"}, how) {
			t.Errorf("docs/fly-api.md says of %s that it is served %q, want whole, part or no", endpoint, how)
		}
	}
	for _, pattern := range served {
		if !slices.Contains(described, pattern) {
			t.Errorf("docs/fly-api.md does not describe %s, which is served", pattern)
		}
	}
	for i, pattern := range described {
		if !slices.Contains(served, pattern) {
			t.Errorf("docs/fly-api.md describes %s, which is not served", pattern)
		}
		if slices.Contains(described[:i], pattern) {
			t.Errorf("docs/fly-api.md describes %s twice", pattern)
		}
	}
}
