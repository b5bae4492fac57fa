package kv

// Records are what nodes write into the log beside the commands of clients: a waiter's end, a sign of life, a setting, a
// user. They have the form of a command (Envelope.AppendRecord) but no client can name them. Whoever owns a kind of record
// adds its rows to a group of its own and the group to this list.

// records finds a record by name.
var records = assembleRecords(waiterRecords, settingRecords, userRecords)

func assembleRecords(groups ...[]Command) map[string]*Command {
	index := make(map[string]*Command)
	for _, group := range groups {
		for i := range group {
			index[group[i].Name] = &group[i]
		}
	}
	return index
}

// runRecord executes the record that the arguments name. One that this version does not know is answered with an error:
// every node of this version does the same.
func (c call) runRecord() {
	record := records[string(c.args[0])]
	switch {
	case record == nil:
		c.reply.Error("ERR unknown record '" + string(cString(c.args[0], 128)) + "'")
	case !record.CheckArity(len(c.args)):
		c.reply.Error(WrongArityError(record.Name))
	default:
		record.run(c)
	}
}
