// Package house keeps this repository in order: its rules are functions over the source tree, and its tests apply
// them to the whole of it.
//
// A [Rule] that finds something says where, why the rule exists and how to mend it, so that nobody has to look for a
// document. Each rule is itself tested against trees in testdata that break it, and against trees that look as if
// they did and do not. The rules read the source and nothing else: what a build constraint leaves out on this
// computer is held to them too.
package house

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// module is the path of this repository's one Go module.
const module = "github.com/dayfly-run/dayfly"

// maxFile is the size above which a file is not source but data, and is not read.
const maxFile = 1 << 20

// Rule is one thing that holds everywhere.
type Rule struct {
	// Name is the rule as a sentence without spaces.
	Name string
	// Why says what it is good for, and Mend how to obey it.
	Why, Mend string
	// Check returns the places where the rule is broken.
	Check func(t *Tree) []Finding
}

// Finding is one place where a rule is broken.
type Finding struct {
	Path string // relative to the repository, with forward slashes
	Line int    // from 1; 0: the file or folder as a whole
	What string // what is there
}

// String returns the finding as one line, in the form that editors jump to.
func (f Finding) String() string {
	if f.Line == 0 {
		return f.Path + ": " + f.What
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.What)
}

// Rules returns all rules.
func Rules() []Rule {
	return slices.Concat(importRules(), commentRules(), codeRules(), sizeRules(), testRules(), textRules())
}

// Tree is the repository's source.
type Tree struct {
	Files []*File // by path
	fset  *token.FileSet
	fsys  fs.FS
}

// File is one text file.
type File struct {
	Path string
	Data []byte
	Go   *ast.File // nil unless it is Go
}

// Load reads the source below fsys. Hidden folders (except .ci and .github), what builds and package managers leave
// behind, and the testdata folders are passed over. A Go file that cannot be parsed is an error.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{fset: token.NewFileSet(), fsys: fsys}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if passedOver(name) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !isText(name) {
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > maxFile {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		if bytes.IndexByte(data, 0) >= 0 {
			return nil // a program without an extension
		}
		f := &File{Path: name, Data: data}
		if path.Ext(name) == ".go" {
			f.Go, err = parser.ParseFile(t.fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
		}
		t.Files = append(t.Files, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("house: %w", err)
	}
	slices.SortFunc(t.Files, func(a, b *File) int { return cmp.Compare(a.Path, b.Path) })
	return t, nil
}

func passedOver(dir string) bool {
	switch base := path.Base(dir); base {
	case ".", ".ci", ".github":
		return false
	case "bin", "node_modules", "vendor", "testdata", "__pycache__":
		return true
	default:
		return strings.HasPrefix(base, ".")
	}
}

// isText reports whether a file is something that people write.
func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".sh", ".py", ".js", ".mjs", ".ts", ".php", ".sql", ".toml", ".yml", ".yaml", ".html", ".css", ".mk":
		return true
	case "":
		return path.Base(name) != "LICENSE" // its text is not ours to change
	case ".mod", ".service":
		return true
	default:
		return false
	}
}

// Test reports whether the file belongs to tests only.
func (f *File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

// Dir returns the file's folder, "." for the root.
func (f *File) Dir() string { return path.Dir(f.Path) }

// Generated reports whether a program wrote this Go file.
func (f *File) Generated() bool { return f.Go != nil && ast.IsGenerated(f.Go) }

// Lines returns how many lines the file has.
func (f *File) Lines() int {
	n := bytes.Count(f.Data, []byte("\n"))
	if len(f.Data) > 0 && f.Data[len(f.Data)-1] != '\n' {
		n++
	}
	return n
}

// goFiles yields the Go files people wrote, without those of tests.
func (t *Tree) goFiles(yield func(*File) bool) {
	for _, f := range t.Files {
		if f.Go != nil && !f.Test() && !f.Generated() && !yield(f) {
			return
		}
	}
}

// testFiles yields the Go files that tests consist of: _test.go files and the packages that are suites.
func (t *Tree) testFiles(yield func(*File) bool) {
	for _, f := range t.Files {
		if f.Go != nil && (f.Test() || isSuite(f.Dir())) && !yield(f) {
			return
		}
	}
}

// isSuite reports whether a folder holds a suite of tests for others to run, which is named CAPABILITYtest.
func isSuite(dir string) bool { return strings.HasSuffix(path.Base(dir), "test") }

// packages returns the Go files of each folder, without those of tests, and the folders in order.
func (t *Tree) packages() (dirs []string, files map[string][]*File) {
	files = map[string][]*File{}
	for f := range t.goFiles {
		files[f.Dir()] = append(files[f.Dir()], f)
	}
	return slices.Sorted(maps.Keys(files)), files
}

// at returns a Finding at a node of a Go file.
func (t *Tree) at(f *File, node ast.Node, format string, args ...any) Finding {
	return Finding{Path: f.Path, Line: t.fset.Position(node.Pos()).Line, What: fmt.Sprintf(format, args...)}
}
