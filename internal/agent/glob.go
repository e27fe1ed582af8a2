package agent

import (
	"path"
	"strings"
)

// glob is a pattern of outputs, split into the elements of a path. An element matches as in path.Match; the element
// ** matches any number of directories, none included, and as the last one everything below.
type glob []string

// parseGlob returns the pattern, or path.ErrBadPattern.
func parseGlob(pattern string) (glob, error) {
	var g glob
	for element := range strings.SplitSeq(path.Clean(pattern), "/") {
		if element == "**" && len(g) > 0 && g[len(g)-1] == "**" {
			continue // matches nothing that one of them would not, only more slowly
		}
		if _, err := path.Match(element, ""); err != nil {
			return nil, err
		}
		g = append(g, element)
	}
	return g, nil
}

// match reports whether the pattern matches a whole path of slash-separated elements.
func (g glob) match(name string) bool { return g.walk(strings.Split(name, "/"), false) }

// within reports whether the pattern may match something in the directory, so that others need not be read.
func (g glob) within(dir string) bool { return g.walk(strings.Split(dir, "/"), true) }

// through reports whether the pattern leads through the symbolic link to a directory: its elements match it one by one.
// As in a shell ** does not follow links, so that what a link leads to is found once, and a link to a directory above it
// is followed no further than the pattern is long.
func (g glob) through(link string) bool {
	elements := strings.Split(link, "/")
	if len(elements) >= len(g) {
		return false
	}
	for i, element := range elements {
		if g[i] == "**" || !matchElement(g[i], element) {
			return false
		}
	}
	return true
}

// fixed returns the directory that everything lies in which the pattern can match, as far as it is written out.
func fixed(pattern string) string {
	dir := path.Dir(path.Clean(pattern))
	if meta := strings.IndexAny(dir, `*?[\`); meta >= 0 {
		dir = path.Dir(dir[:meta] + "x")
	}
	return dir
}

// walk matches elements one by one. It remembers only the last ** it passed: if what follows fails, that ** takes one
// element more. Going back further could not help, because whatever an earlier ** took in addition the last one can
// take as well. So the time is bounded by the product of the two lengths, whatever the pattern.
func (g glob) walk(elements []string, prefix bool) bool {
	at, star, resume := 0, -1, 0
	for i := 0; i < len(elements); {
		switch {
		case at < len(g) && g[at] == "**":
			star, resume = at, i
			at++
		case at < len(g) && matchElement(g[at], elements[i]):
			at++
			i++
		case star >= 0:
			resume++
			at, i = star+1, resume
		default:
			return false
		}
	}
	if prefix {
		return at < len(g) || star >= 0
	}
	return at == len(g)
}

func matchElement(pattern, element string) bool {
	ok, _ := path.Match(pattern, element) // parseGlob has refused bad patterns
	return ok
}
