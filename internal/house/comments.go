package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

func commentRules() []Rule {
	return []Rule{{
		Name:  "EveryPackageHasOnePackageComment",
		Why:   "the first thing a reader asks of a package is what it is for, and two answers are none",
		Mend:  "write one comment above one package clause that begins with \"Package NAME\", or \"Command NAME\" for a program",
		Check: checkPackageComments,
	}, {
		Name:  "EveryExportedNameHasADocComment",
		Why:   "an exported name is a promise, and the comment is its text: inputs, units, ranges, kinds of error, concurrency",
		Mend:  "say in full sentences what it promises; or do not export it",
		Check: checkDocComments,
	}}
}

func checkPackageComments(t *Tree) []Finding {
	var found []Finding
	dirs, files := t.packages()
	for _, dir := range dirs {
		var commented []*File
		for _, f := range files[dir] {
			if f.Go.Doc.Text() != "" {
				commented = append(commented, f)
			}
		}
		switch len(commented) {
		case 0:
			found = append(found, Finding{Path: dir, What: "the package has no package comment"})
		case 1:
			f := commented[0]
			want := "Package " + f.Go.Name.Name + " "
			if f.Go.Name.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(f.Go.Doc.Text(), want) {
				found = append(found, t.at(f, f.Go.Doc, "the package comment does not begin with %q", want))
			}
		default:
			for _, f := range commented[1:] {
				found = append(found, t.at(f, f.Go.Doc, "a second package comment; the first is in %s", commented[0].Path))
			}
		}
	}
	return found
}

func checkDocComments(t *Tree) []Finding {
	var found []Finding
	for f := range t.goFiles {
		if f.Go.Name.Name == "main" {
			continue
		}
		for _, decl := range f.Go.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Doc.Text() == "" && d.Name.IsExported() && receiverIsExported(d) {
					found = append(found, t.at(f, d, "%s has no doc comment", funcName(d)))
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					found = append(found, t.undocumented(f, d, spec)...)
				}
			}
		}
	}
	return found
}

// undocumented checks one declared type, constant or variable, and the methods of an interface. The comment may be
// the declaration's own, that of its group, or stand behind it on the line.
func (t *Tree) undocumented(f *File, group *ast.GenDecl, spec ast.Spec) []Finding {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		if s.Doc.Text() != "" || s.Comment.Text() != "" || group.Doc.Text() != "" {
			return nil
		}
		for _, n := range s.Names {
			if n.IsExported() {
				return []Finding{t.at(f, n, "%s %s has no doc comment", group.Tok, n.Name)}
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil
		}
		var found []Finding
		if s.Doc.Text() == "" && (group.Doc.Text() == "" || group.Lparen != token.NoPos) {
			found = append(found, t.at(f, s, "type %s has no doc comment", s.Name.Name))
		}
		if i, ok := s.Type.(*ast.InterfaceType); ok {
			for _, m := range i.Methods.List {
				if len(m.Names) > 0 && m.Doc.Text() == "" && m.Comment.Text() == "" {
					found = append(found, t.at(f, m, "method %s.%s has no doc comment", s.Name.Name, m.Names[0].Name))
				}
			}
		}
		return found
	}
	return nil
}

func funcName(d *ast.FuncDecl) string {
	if r := receiver(d); r != "" {
		return fmt.Sprintf("method %s.%s", r, d.Name.Name)
	}
	return "func " + d.Name.Name
}

func receiverIsExported(d *ast.FuncDecl) bool {
	r := receiver(d)
	return r == "" || ast.IsExported(r)
}

// receiver returns the name of the type whose method d is, or "".
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	for expr := d.Recv.List[0].Type; ; {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}
