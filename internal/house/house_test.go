package house_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dayfly-run/dayfly/internal/house"
)

func TestTheHouseIsInOrder(t *testing.T) {
	t.Parallel()
	tree, err := house.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatalf("Load: got error %v, want the repository", err)
	}
	if len(tree.Files) < 20 {
		t.Fatalf("Load: got %d files, want the whole repository", len(tree.Files))
	}
	for _, rule := range house.Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			t.Parallel()
			found := rule.Check(tree)
			for _, f := range found {
				t.Error(f)
			}
			if len(found) > 0 {
				t.Logf("why:  %s\nmend: %s", rule.Why, rule.Mend)
			}
		})
	}
}

// Each file of testdata/RULE is a tree. The lines of its comment that begin with "want: " are what the rule must
// find in it, each as part of one finding, in order; a tree without such lines is one the rule must be content with.
func TestEachRuleFindsWhatBreaksItAndNothingElse(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, rule := range house.Rules() {
		known[rule.Name] = true
		trees, err := filepath.Glob(filepath.Join("testdata", rule.Name, "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		broken, content := 0, 0
		for _, name := range trees {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := wants(string(archive.Comment))
			if len(want) > 0 {
				broken++
			} else {
				content++
			}
			t.Run(rule.Name+"/"+strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
				t.Parallel()
				compare(t, rule, archiveFS(archive), want)
			})
		}
		if broken == 0 || content == 0 {
			t.Errorf("rule %s: got %d trees that break it and %d that do not, want some of both", rule.Name, broken, content)
		}
		if rule.Why == "" || rule.Mend == "" {
			t.Errorf("rule %s: want it to say why it exists and how to mend what it finds", rule.Name)
		}
	}
	folders, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if !known[folder.Name()] {
			t.Errorf("testdata/%s: got a folder for no rule", folder.Name())
		}
	}
}

func wants(comment string) []string {
	var want []string
	for line := range strings.Lines(comment) {
		if part, ok := strings.CutPrefix(line, "want: "); ok {
			want = append(want, strings.TrimSpace(part))
		}
	}
	return want
}

// archiveFS returns the files of an archive. A line {N lines} in them stands for so many lines of comment, which is
// how a small archive holds a long file.
func archiveFS(archive *txtar.Archive) fstest.MapFS {
	fsys := fstest.MapFS{}
	for _, f := range archive.Files {
		var b strings.Builder
		for line := range strings.Lines(string(f.Data)) {
			var n int
			if _, err := fmt.Sscanf(line, "{%d lines}", &n); err == nil {
				b.WriteString(strings.Repeat("// A line.\n", n))
			} else {
				b.WriteString(line)
			}
		}
		fsys[f.Name] = &fstest.MapFile{Data: []byte(b.String())}
	}
	return fsys
}

func compare(t *testing.T, rule house.Rule, fsys fstest.MapFS, want []string) {
	t.Helper()
	tree, err := house.Load(fsys)
	if err != nil {
		t.Fatalf("Load: got error %v, want a tree", err)
	}
	var got []string
	for _, f := range rule.Check(tree) {
		got = append(got, f.String())
	}
	if !slices.EqualFunc(got, want, strings.Contains) {
		t.Errorf("findings: got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestLoadReadsWhatPeopleWriteAndNothingElse(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	tree, err := house.Load(fstest.MapFS{
		"a.go":                       file("package a\n"),
		"Makefile":                   file("all:\n"),
		"docs/x.md":                  file("# X\n"),
		".ci/run":                    file("#!/bin/sh\n"),
		"program":                    file("\x7fELF\x00"),
		"bin/tool":                   file("text"),
		"LICENSE":                    file("text"),
		"picture.png":                file("text"),
		".git/config":                file("text"),
		"a/testdata/broken.go":       file("not Go"),
		"clients/js/node_modules/x/": {Mode: os.ModeDir},
		"big.sql":                    file(strings.Repeat("x", 2<<20)),
	})
	if err != nil {
		t.Fatalf("Load: got error %v, want a tree", err)
	}
	var got []string
	for _, f := range tree.Files {
		got = append(got, f.Path)
	}
	if want := []string{".ci/run", "Makefile", "a.go", "docs/x.md"}; !slices.Equal(got, want) {
		t.Errorf("files: got %v, want %v", got, want)
	}
}

func TestLoadOfAFileThatIsNotGoIsAnError(t *testing.T) {
	t.Parallel()
	_, err := house.Load(fstest.MapFS{"a.go": &fstest.MapFile{Data: []byte("packag a\n")}})
	if err == nil || !strings.Contains(err.Error(), "a.go") {
		t.Errorf("Load: got error %v, want one that names the file", err)
	}
}
