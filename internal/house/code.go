package house

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// maxMethods is how many methods an interface may declare.
const maxMethods = 6

func codeRules() []Rule {
	return []Rule{{
		Name:  "NothingRunsAtImport",
		Why:   "importing a package must change nothing: no registration, no work, no surprise in somebody's tests",
		Mend:  "make it a function that is called where it is needed; internal/app lists the backends by name",
		Check: checkInit,
	}, {
		Name: "ThereAreNoMutableGlobals",
		Why:  "what every goroutine and every test shares is what breaks at a distance",
		Mend: "make it a const, a field, or a function that returns it. Allowed are error sentinels, compiled regular\n" +
			"expressions, embedded files, pools, values computed once, _ = guards, and what internal/house/code.go lists with a reason",
		Check: checkGlobals,
	}, {
		Name:  "InterfacesAreSmall",
		Why:   "who implements an interface of many methods implements half of them badly",
		Mend:  "split it by who calls what, or make the rest an optional interface with a function that falls back",
		Check: checkInterfaces,
	}}
}

func checkInit(t *Tree) []Finding {
	var found []Finding
	for f := range t.goFiles {
		for _, decl := range f.Go.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				found = append(found, t.at(f, d, "func init"))
			}
		}
	}
	return found
}

// allowedGlobals returns the package-level variables that are allowed one by one, each with its reason.
func allowedGlobals() map[string]string {
	return map[string]string{
		"cmd/dayfly.version":       "the linker sets it (-X), which works on variables only",
		"cmd/dayfly-agent.version": "the linker sets it (-X), which works on variables only",
		"..program":                "a process is one program, and its functions are declared all over it, as flags and expvars are",
		"internal/process.forking": "it guards a resource limit, of which a process has one, however many hosts it makes",
	}
}

// constantMakers returns the functions and types whose results may be package-level variables, because nothing that
// a program does later can tell that they are not constants.
func constantMakers() []string {
	return []string{
		"errors.New", "fmt.Errorf", "fault.Say", "fault.Field", // sentinels
		"regexp.MustCompile", "template.Must", "netip.MustParsePrefix", "netip.MustParseAddr", // parsed once, never changed
		"sync.Pool", "sync.OnceValue", "sync.OnceValues", // a cache without meaning, a constant computed late
		"dayfly.Func", "dayfly.Stream", // a function that can be called on another machine is declared like any function
	}
}

func checkGlobals(t *Tree) []Finding {
	var found []Finding
	for f := range t.goFiles {
		for _, decl := range f.Go.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				s := spec.(*ast.ValueSpec)
				if isEmbedded(d.Doc) || isEmbedded(s.Doc) || isConstant(s) {
					continue
				}
				for _, n := range s.Names {
					if _, listed := allowedGlobals()[f.Dir()+"."+n.Name]; n.Name != "_" && !listed {
						found = append(found, t.at(f, n, "var %s", n.Name))
					}
				}
			}
		}
	}
	return found
}

func isEmbedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// isConstant reports whether every value comes from one of constantMakers.
func isConstant(s *ast.ValueSpec) bool {
	for _, value := range s.Values {
		if !slices.Contains(constantMakers(), maker(value)) {
			return false
		}
	}
	return len(s.Values) > 0
}

// maker returns what is called or composed to make the value, such as "errors.New" or "sync.Pool".
func maker(value ast.Expr) string {
	switch e := value.(type) {
	case *ast.CallExpr:
		return maker(e.Fun)
	case *ast.CompositeLit:
		return maker(e.Type)
	case *ast.IndexExpr:
		return maker(e.X)
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
	}
	return ""
}

func checkInterfaces(t *Tree) []Finding {
	var found []Finding
	for f := range t.goFiles {
		ast.Inspect(f.Go, func(n ast.Node) bool {
			s, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			i, ok := s.Type.(*ast.InterfaceType)
			if !ok {
				return true
			}
			methods := 0
			for _, m := range i.Methods.List {
				methods += len(m.Names) // an embedded interface has none, and is counted where it is declared
			}
			if methods > maxMethods {
				found = append(found, t.at(f, s, "interface %s declares %d methods; at most %d", s.Name.Name, methods, maxMethods))
			}
			return true
		})
	}
	return found
}
