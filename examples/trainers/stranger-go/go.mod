module stranger

go 1.24
