module trainer

go 1.21
