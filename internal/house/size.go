package house

import (
	"fmt"
	"go/ast"
	"slices"
)

// The budgets, in lines.
const (
	maxRoot     = 4500 // the root package, without tests: two doors, the client of a server and the calls of functions
	maxLines    = 800  // any Go file
	p90Lines    = 400  // nine of ten Go files
	p90Function = 45   // nine of ten functions
)

func sizeRules() []Rule {
	return []Rule{{
		Name:  "TheRootStaysSmall",
		Why:   "the root is what a user's program calls; when it grows it has begun to do what it should only offer",
		Mend:  "move what nobody outside calls to the internal package whose business it is",
		Check: checkRoot,
	}, {
		Name:  "FilesFitIntoAHead",
		Why:   "a reader should know where to look, and a file of many hundred lines says only: in here",
		Mend:  "split it where its subject changes; a file is named for what it holds",
		Check: checkFiles,
	}, {
		Name:  "FunctionsFitOnAScreen",
		Why:   "what cannot be seen at once cannot be checked at once",
		Mend:  "give a part of it a name",
		Check: checkFunctions,
	}}
}

func checkRoot(t *Tree) []Finding {
	lines := 0
	for f := range t.goFiles {
		if f.Dir() == "." {
			lines += f.Lines()
		}
	}
	if lines < maxRoot {
		return nil
	}
	return []Finding{{Path: ".", What: fmt.Sprintf("the root package has %d lines; it must stay below %d", lines, maxRoot)}}
}

func checkFiles(t *Tree) []Finding {
	var found []Finding
	var sizes []measured
	for _, f := range t.Files {
		if f.Go == nil || f.Generated() {
			continue
		}
		sizes = append(sizes, measured{f.Lines(), f.Path})
		if f.Lines() > maxLines {
			found = append(found, Finding{Path: f.Path, What: fmt.Sprintf("%d lines; at most %d", f.Lines(), maxLines)})
		}
	}
	return append(found, beyond(sizes, p90Lines, "files")...)
}

func checkFunctions(t *Tree) []Finding {
	var sizes []measured
	for f := range t.goFiles {
		for _, decl := range f.Go.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok {
				first, last := t.fset.Position(d.Pos()), t.fset.Position(d.End())
				sizes = append(sizes, measured{last.Line - first.Line + 1, fmt.Sprintf("%s:%d", f.Path, first.Line)})
			}
		}
	}
	return beyond(sizes, p90Function, "functions")
}

type measured struct {
	lines int
	where string
}

// beyond reports when more than a tenth of what was measured is longer than the budget, and names the longest.
func beyond(sizes []measured, budget int, what string) []Finding {
	if len(sizes) < 10 {
		return nil // a tenth of nothing
	}
	slices.SortFunc(sizes, func(a, b measured) int { return b.lines - a.lines })
	if p90 := sizes[len(sizes)/10].lines; p90 <= budget {
		return nil
	}
	longest := sizes[0]
	return []Finding{{Path: longest.where, What: fmt.Sprintf(
		"more than a tenth of all %s are longer than %d lines; this is the longest, with %d", what, budget, longest.lines)}}
}
