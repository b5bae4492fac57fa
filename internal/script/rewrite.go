package script

import (
	"strconv"

	"github.com/yuin/gopher-lua/ast"
)

// Names of the functions that a rewritten program calls. No source can name them: they are no identifiers.
const (
	concatName = "(concat)" // its arguments, joined
	setName    = "(set)"    // (table, key, value): the assignment
	newName    = "(new)"    // (value, fields): counts a new table or closure, and returns it
)

// maxDepth bounds the nesting of a program's syntax tree: the compiler of gopher-lua follows it by recursion.
const maxDepth = 2000

// concatGroup bounds the operands that one call of (concat) gets: arguments stand in registers, of which a function has
// about 200. Longer chains are joined from the left, group by group.
const concatGroup = 50

// tooDeep reports whether the tree is nested deeper than maxDepth. It does not recurse.
func tooDeep(chunk []ast.Stmt) bool {
	type place struct {
		node  any
		depth int
	}
	var open []place
	depth := 1
	visit := func(node any) { open = append(open, place{node, depth}) }
	eachStmt(chunk, visit)
	for len(open) > 0 {
		next := open[len(open)-1]
		open = open[:len(open)-1]
		if next.depth > maxDepth {
			return true
		}
		depth = next.depth + 1
		if _, ok := next.node.(*ast.StringConcatOpExpr); ok {
			depth = next.depth // a chain becomes one call
		}
		children(next.node, visit)
	}
	return false
}

func eachStmt(list []ast.Stmt, visit func(any)) {
	for _, s := range list {
		visit(s)
	}
}

func eachExpr(visit func(any), list ...ast.Expr) {
	for _, e := range list {
		if e != nil {
			visit(e)
		}
	}
}

// children visits what stands directly below a node.
func children(node any, visit func(any)) {
	switch n := node.(type) {
	case *ast.AssignStmt:
		eachExpr(visit, n.Lhs...)
		eachExpr(visit, n.Rhs...)
	case *ast.LocalAssignStmt:
		eachExpr(visit, n.Exprs...)
	case *ast.FuncCallStmt:
		visit(n.Expr)
	case *ast.DoBlockStmt:
		eachStmt(n.Stmts, visit)
	case *ast.WhileStmt:
		visit(n.Condition)
		eachStmt(n.Stmts, visit)
	case *ast.RepeatStmt:
		visit(n.Condition)
		eachStmt(n.Stmts, visit)
	case *ast.IfStmt:
		visit(n.Condition)
		eachStmt(n.Then, visit)
		eachStmt(n.Else, visit)
	case *ast.NumberForStmt:
		eachExpr(visit, n.Init, n.Limit, n.Step)
		eachStmt(n.Stmts, visit)
	case *ast.GenericForStmt:
		eachExpr(visit, n.Exprs...)
		eachStmt(n.Stmts, visit)
	case *ast.FuncDefStmt:
		eachExpr(visit, n.Name.Func, n.Name.Receiver)
		visit(n.Func)
	case *ast.ReturnStmt:
		eachExpr(visit, n.Exprs...)
	case *ast.AttrGetExpr:
		eachExpr(visit, n.Object, n.Key)
	case *ast.TableExpr:
		for _, f := range n.Fields {
			eachExpr(visit, f.Key, f.Value)
		}
	case *ast.FuncCallExpr:
		eachExpr(visit, n.Func, n.Receiver)
		eachExpr(visit, n.Args...)
	case *ast.LogicalOpExpr:
		eachExpr(visit, n.Lhs, n.Rhs)
	case *ast.RelationalOpExpr:
		eachExpr(visit, n.Lhs, n.Rhs)
	case *ast.StringConcatOpExpr:
		eachExpr(visit, n.Lhs, n.Rhs)
	case *ast.ArithmeticOpExpr:
		eachExpr(visit, n.Lhs, n.Rhs)
	case *ast.UnaryMinusOpExpr:
		visit(n.Expr)
	case *ast.UnaryNotOpExpr:
		visit(n.Expr)
	case *ast.UnaryLenOpExpr:
		visit(n.Expr)
	case *ast.FunctionExpr:
		eachStmt(n.Stmts, visit)
	}
}

// rewrite returns the chunk of a function that takes the functions of this package and returns the program: a function
// with the rewritten statements.
func rewrite(chunk []ast.Stmt) []ast.Stmt {
	body := &ast.FunctionExpr{ParList: &ast.ParList{HasVargs: true}, Stmts: chunk}
	line := 1
	if len(chunk) > 0 {
		line = chunk[0].Line()
		body.SetLastLine(chunk[len(chunk)-1].LastLine())
	}
	body.SetLine(line)
	rewriteFunction(body)
	names := &ast.LocalAssignStmt{Names: []string{concatName, setName, newName}, Exprs: []ast.Expr{&ast.Comma3Expr{}}}
	return []ast.Stmt{names, &ast.ReturnStmt{Exprs: []ast.Expr{body}}}
}

// rewriteFunction rewrites what the function consists of.
func rewriteFunction(f *ast.FunctionExpr) {
	f.Stmts = rewriteBlock(f.Stmts)
	if f.ParList.HasVargs {
		// Naming '...' keeps the compiler from making a table of the arguments for each call, which nobody would count.
		dots := &ast.LocalAssignStmt{Names: []string{"(dots)"}, Exprs: []ast.Expr{&ast.Comma3Expr{AdjustRet: true}}}
		dots.SetLine(f.Line())
		f.Stmts = append([]ast.Stmt{dots}, f.Stmts...)
	}
}

func rewriteBlock(list []ast.Stmt) []ast.Stmt {
	out := make([]ast.Stmt, 0, len(list))
	for _, s := range list {
		out = append(out, rewriteStmt(s)...)
	}
	return out
}

// rewriteStmt returns what stands for a statement.
func rewriteStmt(s ast.Stmt) []ast.Stmt {
	switch n := s.(type) {
	case *ast.AssignStmt:
		return rewriteAssign(n)
	case *ast.LocalAssignStmt:
		if f, ok := onlyFunction(n); ok { // it may name itself: it must stay a function in the compiler's eyes
			rewriteFunction(f)
			count := &ast.FuncCallStmt{Expr: callOf(newName, s, ident(n.Names[0], s))}
			count.SetLine(s.Line())
			return []ast.Stmt{s, count}
		}
		rewriteExprs(n.Exprs)
	case *ast.FuncCallStmt:
		n.Expr = rewriteExpr(n.Expr)
	case *ast.DoBlockStmt:
		n.Stmts = rewriteBlock(n.Stmts)
	case *ast.WhileStmt:
		n.Condition, n.Stmts = rewriteExpr(n.Condition), rewriteBlock(n.Stmts)
	case *ast.RepeatStmt:
		n.Condition, n.Stmts = rewriteExpr(n.Condition), rewriteBlock(n.Stmts)
	case *ast.IfStmt:
		n.Condition, n.Then, n.Else = rewriteExpr(n.Condition), rewriteBlock(n.Then), rewriteBlock(n.Else)
	case *ast.NumberForStmt:
		n.Init, n.Limit = rewriteExpr(n.Init), rewriteExpr(n.Limit)
		if n.Step != nil {
			n.Step = rewriteExpr(n.Step)
		}
		n.Stmts = rewriteBlock(n.Stmts)
	case *ast.GenericForStmt:
		rewriteExprs(n.Exprs)
		n.Stmts = rewriteBlock(n.Stmts)
	case *ast.FuncDefStmt:
		return rewriteAssign(definition(n))
	case *ast.ReturnStmt:
		rewriteExprs(n.Exprs)
	}
	return []ast.Stmt{s}
}

func onlyFunction(n *ast.LocalAssignStmt) (*ast.FunctionExpr, bool) {
	if len(n.Names) != 1 || len(n.Exprs) != 1 {
		return nil, false
	}
	f, ok := n.Exprs[0].(*ast.FunctionExpr)
	return f, ok
}

// definition returns the assignment that "function name() ... end" stands for.
func definition(n *ast.FuncDefStmt) *ast.AssignStmt {
	target := n.Name.Func
	if n.Name.Method != "" {
		key := &ast.StringExpr{Value: n.Name.Method}
		key.SetLine(n.Line())
		target = &ast.AttrGetExpr{Object: n.Name.Receiver, Key: key}
		target.SetLine(n.Line())
		n.Func.ParList.Names = append([]string{"self"}, n.Func.ParList.Names...)
	}
	assign := &ast.AssignStmt{Lhs: []ast.Expr{target}, Rhs: []ast.Expr{n.Func}}
	assign.SetLine(n.Line())
	assign.SetLastLine(n.LastLine())
	return assign
}

// rewriteAssign makes assignments to fields calls of (set).
func rewriteAssign(n *ast.AssignStmt) []ast.Stmt {
	rewriteExprs(n.Rhs)
	fields := 0
	for i, target := range n.Lhs {
		if field, ok := target.(*ast.AttrGetExpr); ok {
			fields++
			field.Object, field.Key = rewriteExpr(field.Object), rewriteExpr(field.Key)
		} else {
			n.Lhs[i] = rewriteExpr(target)
		}
	}
	if fields == 0 {
		return []ast.Stmt{n}
	}
	if len(n.Lhs) == 1 && len(n.Rhs) == 1 {
		field := n.Lhs[0].(*ast.AttrGetExpr)
		return []ast.Stmt{setOf(n, field.Object, field.Key, n.Rhs[0])}
	}
	return []ast.Stmt{severally(n)}
}

func setOf(at ast.PositionHolder, object, key, value ast.Expr) ast.Stmt {
	set := &ast.FuncCallStmt{Expr: callOf(setName, at, object, key, one(value))}
	set.SetLine(at.Line())
	set.SetLastLine(at.LastLine())
	return set
}

// severally evaluates all of an assignment to several targets before it assigns, from the last to the first.
func severally(n *ast.AssignStmt) ast.Stmt {
	block := &ast.DoBlockStmt{}
	block.SetLine(n.Line())
	block.SetLastLine(n.LastLine())
	local := func(names []string, values []ast.Expr) {
		s := &ast.LocalAssignStmt{Names: names, Exprs: values}
		s.SetLine(n.Line())
		block.Stmts = append(block.Stmts, s)
	}
	var assigns []ast.Stmt
	var values []string
	for i, target := range n.Lhs {
		number := strconv.Itoa(i)
		value := ident("(value"+number+")", n)
		values = append(values, value.Value)
		if field, ok := target.(*ast.AttrGetExpr); ok {
			object, key := "(object"+number+")", "(key"+number+")"
			local([]string{object, key}, []ast.Expr{field.Object, one(field.Key)})
			assigns = append(assigns, setOf(n, ident(object, n), ident(key, n), value))
			continue
		}
		s := &ast.AssignStmt{Lhs: []ast.Expr{target}, Rhs: []ast.Expr{value}}
		s.SetLine(n.Line())
		assigns = append(assigns, s)
	}
	local(values, n.Rhs)
	for i := len(assigns) - 1; i >= 0; i-- {
		block.Stmts = append(block.Stmts, assigns[i])
	}
	return block
}

func rewriteExprs(list []ast.Expr) {
	for i, e := range list {
		list[i] = rewriteExpr(e)
	}
}

// rewriteExpr returns what stands for an expression.
func rewriteExpr(e ast.Expr) ast.Expr {
	switch n := e.(type) {
	case *ast.NumberExpr:
		n.Value = plainNumber(n.Value)
	case *ast.AttrGetExpr:
		n.Object, n.Key = rewriteExpr(n.Object), rewriteExpr(n.Key)
	case *ast.TableExpr:
		for _, f := range n.Fields {
			if f.Key != nil {
				f.Key = rewriteExpr(f.Key)
			}
			f.Value = rewriteExpr(f.Value)
		}
		count := &ast.NumberExpr{Value: strconv.Itoa(len(n.Fields))}
		count.SetLine(n.Line())
		return callOf(newName, n, n, count)
	case *ast.FuncCallExpr:
		if n.Func != nil {
			n.Func = rewriteExpr(n.Func)
		}
		if n.Receiver != nil {
			n.Receiver = rewriteExpr(n.Receiver)
		}
		rewriteExprs(n.Args)
	case *ast.LogicalOpExpr:
		n.Lhs, n.Rhs = rewriteExpr(n.Lhs), rewriteExpr(n.Rhs)
	case *ast.RelationalOpExpr:
		n.Lhs, n.Rhs = rewriteExpr(n.Lhs), rewriteExpr(n.Rhs)
	case *ast.ArithmeticOpExpr:
		n.Lhs, n.Rhs = rewriteExpr(n.Lhs), rewriteExpr(n.Rhs)
	case *ast.UnaryMinusOpExpr:
		n.Expr = rewriteExpr(n.Expr)
	case *ast.UnaryNotOpExpr:
		n.Expr = rewriteExpr(n.Expr)
	case *ast.UnaryLenOpExpr:
		n.Expr = rewriteExpr(n.Expr)
	case *ast.StringConcatOpExpr:
		return rewriteConcat(n)
	case *ast.FunctionExpr:
		rewriteFunction(n)
		return callOf(newName, n, n)
	}
	return e
}

// rewriteConcat makes a chain a..b..c, which associates to the right, one call, or several if it is long.
func rewriteConcat(n *ast.StringConcatOpExpr) ast.Expr {
	var operands []ast.Expr
	var last ast.Expr = n
	for {
		link, ok := last.(*ast.StringConcatOpExpr)
		if !ok {
			break
		}
		operands = append(operands, one(rewriteExpr(link.Lhs)))
		last = link.Rhs
	}
	operands = append(operands, one(rewriteExpr(last)))
	for len(operands) > concatGroup {
		joined := callOf(concatName, n, operands[:concatGroup]...)
		operands = append([]ast.Expr{joined}, operands[concatGroup:]...)
	}
	return callOf(concatName, n, operands...)
}

// one marks an expression that may have several values as standing for the first.
func one(e ast.Expr) ast.Expr {
	switch n := e.(type) {
	case *ast.FuncCallExpr:
		n.AdjustRet = true
	case *ast.Comma3Expr:
		n.AdjustRet = true
	}
	return e
}

func ident(name string, at ast.PositionHolder) *ast.IdentExpr {
	e := &ast.IdentExpr{Value: name}
	e.SetLine(at.Line())
	e.SetLastLine(at.LastLine())
	return e
}

func callOf(name string, at ast.PositionHolder, args ...ast.Expr) *ast.FuncCallExpr {
	call := &ast.FuncCallExpr{Func: ident(name, at), Args: args, AdjustRet: true}
	call.SetLine(at.Line())
	call.SetLastLine(at.LastLine())
	return call
}

// plainNumber returns the number as the compiler reads it without taking a leading zero for octal digits.
func plainNumber(text string) string {
	f, ok := parseNumber(text)
	if !ok {
		return text // the compiler makes it NaN, as it would any text that is no number
	}
	return strconv.FormatFloat(f, 'e', -1, 64)
}
